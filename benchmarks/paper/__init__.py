"""The paper in miniature: PeRFlow's evidence (arXiv 2405.07510) re-made on the built-in world, from shipped weights.

    make paper                   python -m benchmarks.paper
    make paper ARGS=--quick      tiny sets, to see that all of it works; never overwrites the report

Every row that is measured is kept in a work folder under the hash of all that decides it, weights and judge included,
so a run that was stopped goes on, and after new weights only what they change is measured again. Processes, one a core,
share the rows that are to be made.

    sizes       how many pictures and steps each part takes, in full and quick
    shelf       the rows on disk
    room        the models, the judge, the prompts; draws a set of pictures and looks at it
    references  features of rendered scenes: training ones, held-out ones
    parts       the evidence in parts that fill the shelf
    workers     processes that share parts
    tables      the sweep of CFG, Table 1, more steps, milliseconds
    race        methods trained alike at equal calls
    paths       paired errors, errors over windows, straightness
    habits      diversity, negative prompts, the fifth step, dynamic CFG
    styled      accelerators on a separately fine-tuned base
    published   what the authors published, with its source
    claims      evidence -> verdicts, with reasons made of its numbers
    figures     PNGs
    document    blocks of a report as Markdown and as one HTML file
    report      evidence and verdicts -> the document

What is measured ends up in one JSON of plain numbers, the evidence; verdicts, figures and report are made of it alone.
"""
