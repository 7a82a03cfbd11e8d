"""Labels: one form, one convention for missing ones, one message for those out of range."""

import pytest
import torch
from torch.nn import functional as F

from etf_heads._labels import NO_LABEL, check_labels, checked_by_device
from etf_heads._tasks import Tasks

TASKS = Tasks.parse({"shape": 3, "colour": 2})


def test_no_label_is_what_torch_ignores():
    labels = torch.tensor([1, NO_LABEL])
    logits = torch.randn(2, 3)
    assert F.cross_entropy(logits, labels) == F.cross_entropy(logits[:1], labels[:1])


def test_missing_labels_pass():
    labels = torch.tensor([[2, NO_LABEL], [NO_LABEL, NO_LABEL]])
    assert torch.equal(check_labels(labels, TASKS, (2,)), labels)
    nothing = torch.full((2, 2), NO_LABEL)
    assert torch.equal(check_labels(nothing, TASKS, (2,)), nothing)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([-1, 1], "run from -1 to 1, expected 0 to 1; -1 is not a label; samples .* have -100"),
        ([NO_LABEL, 2], "run from 2 to 2, expected 0 to 1; samples without a label have -100"),
        ([-99, 0], "run from -99 to 0, expected 0 to 1; samples without a label have -100"),
    ],
)
def test_other_numbers_are_refused(column, message):
    labels = {"shape": torch.tensor([0, 2]), "colour": torch.tensor(column)}
    with pytest.raises(ValueError, match=f"labels of task 'colour' {message}"):
        check_labels(labels, TASKS, (2,))


def test_no_samples_are_in_range():
    assert check_labels(torch.empty(0, 2, dtype=torch.int32), TASKS, (0,)).shape == (0, 2)


def test_labels_that_the_device_refuses():
    labels = torch.tensor([[0, 2], [1, 0]])
    assert torch.equal(checked_by_device(labels, 3), labels)
    for wrong in (-1, 3):
        with pytest.raises(RuntimeError, match=f"index {wrong} is out of bounds"):
            checked_by_device(torch.tensor([0, wrong]), 3)
