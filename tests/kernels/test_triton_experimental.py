"""The loss in Triton, in Triton's interpreter: it must be chosen before Triton is imported."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from etf_heads import kernels
from etf_heads.kernels import _library


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_it_agrees_with_dense_scores_in_the_interpreter():
    cases = Path(__file__).with_name("triton_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]


def test_it_is_off_until_it_is_turned_on(monkeypatch):
    on_gpu = torch.empty(0, device="meta")
    assert not _library.is_enabled_for("cuda")
    monkeypatch.setattr(_library, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="there is no Triton"):
        kernels.enable_experimental_triton()
    monkeypatch.setattr(_library, "find_spec", lambda _: True)
    kernels.enable_experimental_triton()
    try:
        assert _library.is_enabled_for("cuda")
        assert not kernels.takes(on_gpu)
    finally:
        kernels.enable_experimental_triton(False)
    assert not _library.is_enabled_for("cuda")
