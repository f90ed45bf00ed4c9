"""Tabletop: a little procedural world, and the recipe that trains the built-in models on it."""
