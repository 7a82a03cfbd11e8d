"""Shared by tests of hostile input."""

import os

SECONDS = 5.0
"""Processor time that the refusal of any one input may take; most take a millisecond.

Not the time of a clock on the wall, which other processes of the machine lengthen.
"""


class Bomb:
    """Unpickling it makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)
