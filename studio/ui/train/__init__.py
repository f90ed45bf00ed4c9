"""The Train tab: pictures, recipe and settings, and the run."""
