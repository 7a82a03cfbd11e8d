"""Classes that come in sessions, with a rehearsal buffer of those before: runs of ``replay.py``."""
