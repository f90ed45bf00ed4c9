"""Networks that today's diffusers lacks, built from its own parts; the engine runs them, the trainer trains them.

They know no files beyond a folder of weights, no scheduler and no page.
"""
