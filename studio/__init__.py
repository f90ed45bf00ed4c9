"""PeRFlow Studio: few-step diffusion in a browser. The law of imports stands in tests/test_architecture.py."""
