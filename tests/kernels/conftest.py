"""Kernels compiled from the source at hand, whatever is installed."""

import pytest
from kernel_builds import build_module

from etf_heads import kernels
from etf_heads.kernels import _library


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The folder of the libraries."""
    build, folder = build_module(), tmp_path_factory.mktemp("kernels")
    try:
        build.compile_kernels(folder, ["-Wall", "-Wextra", "-Werror"])
    except build.NotCompiledError as error:
        if "there is no C++ compiler" in str(error):
            pytest.skip(str(error))
        raise
    return folder


@pytest.fixture
def kernel(compiled):
    """Kernels for this processor, turned on."""
    _library.load(compiled)
    assert kernels.is_enabled(), kernels.status()
    yield
    _library.load()


@pytest.fixture(params=["default", "avx2"])
def variant(request, compiled, monkeypatch):
    """Kernels for each kind of processor that this one can stand for."""
    capability = _library.torch.backends.cpu.get_cpu_capability()
    if request.param == "avx2" and capability not in ("AVX2", "AVX512"):
        pytest.skip("a processor without AVX2")
    name = request.param.upper()
    monkeypatch.setattr(_library.torch.backends.cpu, "get_cpu_capability", lambda: name)
    _library.load(compiled)
    assert ("-avx2" in kernels.status()) == (request.param == "avx2")
    yield
    monkeypatch.undo()
    _library.load()
