"""The Control tab: drawings that follow pictures."""
