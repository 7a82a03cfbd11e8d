"""Shared by tests of hostile input."""

import os

SECONDS = 5.0
"""What the refusal of any one input may take; most take a millisecond."""


class Bomb:
    """Unpickling it makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)
