"""Torch-free parts of comparing: contests and their fairness, grids of parameters, numbers, the sheet of a grid.

Their services are `studio.comparisons` and `studio.grids`; nothing here draws, loads or keeps anything.
"""
