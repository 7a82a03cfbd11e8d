"""What a test lets run in a process of its own; light, since that process imports it."""

import os
import time


def sleep(seconds):
    if seconds < 0:
        raise ValueError(f"seconds={seconds}")
    time.sleep(seconds)
    return {"pid": os.getpid()}
