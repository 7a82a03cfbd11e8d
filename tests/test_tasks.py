"""Accepted forms of tasks, and the errors for all others."""

import numpy as np
import pytest
import torch

from etf_heads import Tasks


def test_named_and_numbered_tasks():
    named = Tasks.parse({"left": 10, "right": np.int64(3)})
    assert (named.sizes, named.names, named.total, named.rank) == (
        (10, 3),
        ("left", "right"),
        13,
        11,
    )
    assert named.slices == (slice(0, 10), slice(10, 13))
    assert named.pack("ab") == {"left": "a", "right": "b"}
    assert named.unpack({"right": 2, "left": 1}, "labels") == (1, 2)
    assert (named.index("right"), named.index(-1), named.index(0)) == (1, 1, 0)
    numbered = Tasks.parse([10, 3])
    assert numbered.pack("ab") == ("a", "b")
    assert numbered.labels == ("0", "1")
    assert numbered.unpack([1, 2], "labels") == (1, 2)
    assert Tasks.parse(numbered) is numbered


def test_a_single_task_is_given_by_its_number_of_classes():
    single, listed = Tasks.parse(np.int64(10)), Tasks.parse([10])
    assert (single.sizes, single.names, single.labels, len(single)) == ((10,), None, ("0",), 1)
    assert single.pack(["a"]) == "a"
    assert listed.pack(["a"]) == ("a",)
    assert single.unpack(["a"], "labels") == ("a",)
    logits = torch.zeros(4, 10)
    assert single.split(logits) is logits
    assert torch.equal(listed.split(logits)[0], logits)
    with pytest.raises(ValueError, match="too many values"):
        single.pack("ab")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tasks.parse({}), "tasks is empty: at least one task is needed"),
        (lambda: Tasks.parse([]), "tasks is empty"),
        (lambda: Tasks.parse(1), "tasks=1: a task needs at least 2 classes"),
        (lambda: Tasks.parse(True), "tasks must be a positive integer, got True"),
        (
            lambda: Tasks.parse(2.5),
            "number of classes of one task, .* got 2.5",
        ),
        (lambda: Tasks((3, 2), single=True), "single=True is for one task without a name"),
        (lambda: Tasks.parse("10"), "must map task names to class counts, .* got '10'"),
        (lambda: Tasks.parse({"a": 1}), r"tasks\['a'\]=1: a task needs at least 2 classes"),
        (lambda: Tasks.parse([3, 0]), r"tasks\[1\] must be a positive integer, got 0"),
        (lambda: Tasks.parse([3, -2]), r"tasks\[1\] must be a positive integer, got -2"),
        (lambda: Tasks.parse([3, 2.0]), r"tasks\[1\] must be a positive integer, got 2.0"),
        (lambda: Tasks.parse({3: 2}), "task names must be strings, got 3"),
        (lambda: Tasks.parse({"a": 2}).index("b"), r"no task 'b': the tasks are \['a'\]"),
        (lambda: Tasks.parse([2, 2]).index(2), "no task 2: there are 2, counted from 0"),
        (lambda: Tasks.parse([2, 2]).unpack([1], "labels"), "labels has 1 entries for 2 tasks"),
        (
            lambda: Tasks.parse({"a": 2}).unpack({"b": 1}, "labels"),
            r"labels has the tasks \['b'\], expected \['a'\]",
        ),
    ],
)
def test_bad_input_gets_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
