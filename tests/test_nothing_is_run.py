"""No file that the project reads can run code: nothing is unpickled or evaluated."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    p for d in ("etf_heads", "recipes", "benchmarks") for p in (ROOT / d).rglob("*.py")
)
UNSAFE = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "yaml", "cloudpickle"}
LOADERS = {
    *(f"{module}.{name}" for module in UNSAFE for name in ("load", "loads", "Unpickler", "open")),
    *("torch.load", "torch.hub.load", "torch.jit.load", "np.load", "numpy.load", "pd.read_pickle"),
    *("eval", "exec", "compile", "__import__"),
}


def found(source):
    """Calls, and imports by name, of what can run code that a file has in it."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            names.append(ast.unparse(node.func))
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            safe = node.arg == "weights_only"
            names += ["np.load"] if ast.unparse(node.value) != str(safe) else []
    return [name for name in names if name in LOADERS]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loader_that_runs_code_is_called(path):
    assert found(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "from pickle import loads",
        "import pickle\npickle.load(file)",
        "read(path, allow_pickle=True)",
        "read(path, weights_only=False)",
        "eval(text)",
    ],
)
def test_one_that_is_would_be_found(source):
    assert len(found(source)) == 1
