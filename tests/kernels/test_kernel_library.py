"""Kernels are compiled where they can be, and turned on and off."""

import os
import subprocess
import sys

import pytest
from kernel_builds import build_module

from etf_heads import kernels
from etf_heads.kernels import _library


@pytest.mark.usefixtures("kernel")
def test_the_switch():
    assert kernels.status().startswith("on: ")
    kernels.enable(False)
    assert not kernels.is_enabled()
    assert kernels.status() == "off: by enable(False)"
    kernels.enable()
    assert kernels.is_enabled()


def test_the_environment_turns_them_off():
    program = "from etf_heads import kernels; print(kernels.status(), kernels.is_enabled())"
    environment = os.environ | {"ETF_HEADS_KERNELS": "0"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "off: ETF_HEADS_KERNELS=0 False"


def test_without_a_library_nothing_can_be_turned_on(tmp_path):
    try:
        _library.load(tmp_path)
        assert not kernels.is_enabled()
        assert kernels.status().startswith("not compiled: no libkernels")
        with pytest.raises(ValueError, match=r"no compiled kernels \(not compiled: .*C\+\+"):
            kernels.enable()
        kernels.enable(False)
    finally:
        _library.load()


def test_a_library_that_does_not_load_is_a_warning(tmp_path):
    for name in ("libkernels.so", "libkernels-avx2.so"):
        (tmp_path / name).write_bytes(b"not a library")
    try:
        with pytest.warns(RuntimeWarning, match="without its compiled kernels: not loaded"):
            _library.load(tmp_path)
        assert not kernels.is_enabled()
    finally:
        _library.load()


def test_one_of_another_version_is_not_taken(compiled, monkeypatch):
    monkeypatch.setattr(_library, "_ABI", 0)
    try:
        with pytest.warns(RuntimeWarning, match="version 3, not 0: install the package again"):
            _library.load(compiled)
    finally:
        monkeypatch.undo()
        _library.load()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CXX": "/nowhere/c++"}, "No such file"),
        ({"CXX": f"{sys.executable} -c raise(SystemExit(1))"}, "SystemExit"),
        ({"CXX": "", "PATH": "/nowhere"}, "there is no C\\+\\+ compiler"),
        ({"ETF_HEADS_KERNELS": "0"}, "ETF_HEADS_KERNELS=0"),
    ],
)
def test_without_a_compiler_there_is_a_reason_and_no_old_library(
    tmp_path, monkeypatch, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    old = tmp_path / "libkernels.so"
    old.touch()
    build = build_module()
    with pytest.raises(build.NotCompiledError, match=message):
        build.compile_kernels(tmp_path)
    assert not old.exists()
