"""A specification that an enemy wrote is refused at once, and costs no memory."""

import itertools
import json
import time

import pytest
import torch

from etf_heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
)
from etf_heads._tasks import Tasks
from etf_heads.codes import MultiCentreCode
from etf_heads.heads import FixedHead, FixedRegressionHead, check_frame, from_spec, to_spec
from tests.hostile import SECONDS

TASKS = {"a": 3, "b": 4}
HEADS = {
    "single": lambda: ETFHead(16, 5),
    "random": lambda: ETFHead(16, 5, orientation="random:1", learn_scale=True),
    "given": lambda: ETFHead(16, 5, orientation=torch.eye(16)[:, :5]),
    "learned": lambda: ETFHead(16, 5, orientation="learned"),
    "compound": lambda: CompoundETFHead(16, TASKS, orientation="hadamard"),
    "independent": lambda: CompoundETFHead(4, TASKS, cross_task="independent"),
    "correlated": lambda: CorrelatedETFHead(16, TASKS, torch.arange(1.0, 13).reshape(3, 4)),
    "centres": lambda: FixedHead(16, MultiCentreCode([1, 3, 4])),
    "regression": lambda: FixedRegressionHead(16, torch.eye(5), lambda_w=0.1, lambda_h=0.1),
    "nearest": lambda: NearestETFHead(16, TASKS),
    "class means": lambda: ClassMeanHead(16, TASKS),
}
SIZES = [10**12, 10**15, 2**63, 10**400, -1, 0, [10**12], {"a": 10**12}, {"tasks": [10**12] * 3}]
TEXTS = ["../../x", "", "x" * 100_000, "<script>alert(1)</script>", "__class__", "\x00"]
NUMBERS = [float("nan"), float("inf"), -1.0, 1e308]
STRUCTURES = [
    [],
    {},
    None,
    {"shape": [10**12, 10**12], "dtype": "float32"},
    {"integers": [10**12, 10**12, 10**12]},
    {"integers": 3},
    {"shape": [2**62, 2**62], "dtype": "float64"},
    {"shape": [-1], "dtype": "float32"},
    {"shape": [10**400], "dtype": "float32"},
    {"shape": ["x"], "dtype": []},
    {"dtype": "object"},
    {"class": "Head", "arguments": {}},
    {"class": "Specified", "arguments": {"__class__": 1}},
    {"class": ["ETFHead"], "arguments": {}},
    {"class": "ETFHead", "arguments": [1]},
    {"own": "os.system"},
]
FREE = {
    *("bias", "centred", "scale", "learn_scale", "feature_norm", "dtype", "seed", "duality_gap"),
    *("decay", "gradient", "update_every", "proximal"),
    *("theta", "reduce"),
    "tasks_or_classes",  # of class means, for which any number of classes fits
}
"""Arguments of which another value can be another head; load_model holds it against the tensors."""


def places(value, at=()):
    """Where something else can be put, from the whole down to each number."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def put(spec, at, value):
    if not at:
        return value
    *path, last = at
    changed = json.loads(json.dumps(spec))
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = value
    return changed


def outcome(spec, width):
    """What comes of it: a head or an error, in no time."""
    start = time.process_time()
    try:
        found = from_spec(spec, width)
    except ValueError as error:
        found = error
    assert time.process_time() - start < SECONDS
    return found


@pytest.mark.parametrize("name", HEADS)
def test_whatever_stands_anywhere_is_refused_or_takes_no_memory(name):
    head = HEADS[name]()
    spec = to_spec(head)
    del spec["frame"]
    refused = 0
    for at, value in itertools.product(places(spec), SIZES + TEXTS + NUMBERS + STRUCTURES):
        found = outcome(put(spec, at, value), head.in_features)
        if isinstance(found, ValueError):
            refused += 1
            continue
        assert all(t.is_meta for t in (*found.parameters(), *found.buffers())), (at, value)
        default = at[-1:] in (("columns",), ("tasks",)) and value is None
        assert default or FREE & set(at), (at, value)
    assert refused > 300


@pytest.mark.parametrize("name", HEADS)
def test_what_is_missing_or_too_much_is_refused(name):
    spec = to_spec(HEADS[name]())
    del spec["frame"]
    width, refused = HEADS[name]().in_features, 0
    for at in places(spec):
        inner = spec
        for key in at:
            inner = inner[key]
        if not isinstance(inner, dict) or at[-1:] == ("tasks",):
            continue
        more = [inner | {key: 1} for key in ("device", "__class__", "self", "../../x", "")]
        for value in [*more, *({k: v for k, v in inner.items() if k != key} for key in inner)]:
            found = outcome(put(spec, at, value), width)
            refused += isinstance(found, ValueError)
            # What has a default may be left out, as by older versions that did not have it.
            assert isinstance(found, ValueError) or len(value) < len(inner) or "device" in value
    assert refused > 3


def test_unknown_cross_task_is_refused_in_the_code_too():
    spec = to_spec(HEADS["compound"]())
    spec["arguments"]["code"]["arguments"]["cross_task"] = "../../x"
    with pytest.raises(ValueError, match=r"cross_task must be one of .*got '\.\./\.\./x'"):
        from_spec(spec, 16)


def test_many_tasks_are_as_quick_as_they_are_many():
    start = time.process_time()
    slices = Tasks.parse([2] * 50_000).slices
    assert time.process_time() - start < SECONDS
    assert slices[-1] == slice(99_998, 100_000)


@pytest.mark.parametrize(
    "frame",
    [None, [], 0, "frame", [[float("nan")] * 4] * 4, [[1e400] * 4] * 4, [[]] * 4, {"a": 1},
     [[0.0] * 4] * 3, [[[0.0] * 4] * 4] * 4],
)  # fmt: skip
def test_a_hostile_fingerprint_is_refused(frame):
    head = HEADS["single"]()
    with pytest.raises(ValueError, match=r"fingerprint of the frame|not those that were saved"):
        check_frame(head, to_spec(head) | {"frame": frame})


@pytest.mark.parametrize("name", ["a.b", "", "keys", "../x.y"])
def test_task_names_that_no_module_can_have(name):
    head = CompoundETFHead(16, {name: 3, "other": 4})
    assert set(head(torch.randn(2, 16))) == {name, "other"}
    with pytest.raises(ValueError, match="is not a valid module name"):
        head.to_linear()
