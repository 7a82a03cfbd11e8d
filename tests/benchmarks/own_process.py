"""Functions that a test runs in a process of its own, which imports this file and no more."""

import os
import time


def sleep(seconds):
    if seconds < 0:
        raise ValueError(f"seconds={seconds}")
    time.sleep(seconds)
    return {"pid": os.getpid()}
