"""A verdict does not hang on how a claim was run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.storage import read_json

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
CLAIM = "dissection"


def start(output, *launcher, **environment):
    """``recipes/paper.py`` at its reduced size, with one seed."""
    usual = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = ["recipes/paper.py", CLAIM, "--seeds", "0", "--output", str(output)]
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        cwd=ROOT,
        env=os.environ | usual | environment,
        stdout=subprocess.DEVNULL,
    )


def judged(output, *launcher, **environment):
    """What it finds, when it has run to its end."""
    assert start(output, *launcher, **environment).wait() == 0
    return read_json(output / f"{CLAIM}.json")


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Run by one process, without a break, in float32."""
    return judged(tmp_path_factory.mktemp("usual"))


def met(found):
    return {criterion["statement"]: criterion["verdict"] for criterion in found["criteria"]}


def test_the_usual_run_meets_its_criteria(usual):
    """So that the others could differ."""
    assert usual["verdict"] == "holds"
    assert len(met(usual)) >= 6


def test_a_run_killed_three_times_has_the_same_numbers(usual, tmp_path):
    for seconds in (12, 14, 16):
        process = start(tmp_path)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / f"{CLAIM}.json").exists()
    assert judged(tmp_path)["criteria"] == usual["criteria"]


def test_two_processes_reach_the_same_verdict(usual, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    found = judged(tmp_path, *launcher)
    assert found["provenance"]["processes"] == 2
    assert met(found) == met(usual)


def test_bfloat16_reaches_the_same_verdict(usual, tmp_path):
    found = judged(tmp_path, ACCELERATE_MIXED_PRECISION="bf16")
    assert found["provenance"]["mixed_precision"] == "bf16"
    assert met(found) == met(usual)
