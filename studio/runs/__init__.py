"""What the studio and the trainer agree on: a run's configuration, its events, its folder, and the table of jobs.

Torch-free, so that the page can read a run without loading a model. The folder is the truth: whoever wants to know how
a run stands reads its events; nobody asks the process.
"""
