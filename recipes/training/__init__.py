"""One run, from its settings to its result; ``engine.py`` is the loop."""
