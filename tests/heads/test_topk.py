"""The best classes, found in blocks, are those of the logits of every head."""

import pytest
import torch

from etf_heads import ClassMeanHead
from etf_heads.heads import _base
from tests.cases import EVERY_HEAD, REPRESENTATIVES, all_logits, features


@pytest.mark.parametrize(
    ("case", "numbers"),
    [*((case, 1) for case in EVERY_HEAD), *((case, 2**22) for case in REPRESENTATIVES)],
    ids=str,
)
def test_topk_is_that_of_the_logits(case, numbers, monkeypatch):
    monkeypatch.setattr(_base, "_BLOCK", numbers)  # k classes at a time, or all
    head = case.make()
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    head.eval()
    for shape in [(), (5,), (2, 3), (0,)]:
        h = features(case, *shape)
        for task, dense in enumerate(all_logits(head(h)).split(head.tasks.sizes, -1)):
            for k in {1, min(2, dense.shape[-1]), dense.shape[-1]}:
                values, classes = head.topk(h, k, task)
                torch.testing.assert_close(values, dense.topk(k).values, rtol=0, atol=1e-9)
                torch.testing.assert_close(dense.gather(-1, classes), values, rtol=0, atol=1e-9)


def test_topk_of_the_tasks_comes_as_logits_do():
    head = ClassMeanHead(6, {"a": 3, "b": 4}, learn_scale=True)
    found = head.topk(torch.randn(5, 6), 2)
    assert {task: tuple(pair.indices.shape) for task, pair in found.items()} == {
        "a": (5, 2),
        "b": (5, 2),
    }
    assert not found["a"].values.requires_grad
    for k in (0, 4, 1.5):
        with pytest.raises(ValueError, match="k"):
            head.topk(torch.randn(5, 6), k, "a")
