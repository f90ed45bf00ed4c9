"""Pictures with captions, brought in from strangers' files, checked, and kept by name.

    sources    what a zip, a folder or a list of uploads holds, with limits before and while reading
    captions   words for the pictures: sidecars, metadata.jsonl, metadata.csv, one caption for all
    pictures   one file's bytes -> an upright RGB picture, or the reason why not
    importer   all of it together: a folder made aside and renamed whole
    manifest   what a dataset is: every file, kept or dropped and why; its fingerprint; its summary
    buckets    shapes of about equal area, and how many pictures each holds
    store      the datasets of a studio: list, get, delete

Torch-free: page, API and trainer read the same manifest. Nothing of a source is ever written under a name it chose.
"""
