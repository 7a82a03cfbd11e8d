"""The parts of ``recipes/theory.py``: what is compared, how, and how it is shown."""
