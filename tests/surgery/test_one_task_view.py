"""A view of one task: its logits, and everything else as in the model."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from etf_heads import replace_head
from etf_heads.surgery import one_task_view

TASKS = {"shape": 3, "colour": 2}


def model_of(tasks=TASKS):
    body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    return replace_head(body, tasks, at="2")


@pytest.mark.parametrize("task", ["colour", 1, -1])
def test_it_returns_the_logits_of_the_task(task):
    model, x = model_of(), torch.randn(4, 8)
    view = one_task_view(model, task)
    assert type(view) is type(model)
    assert torch.equal(view(x), model(x)["colour"])
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(view(x), model(x)["colour"])  # the same parameters
    assert list(model(x)) == list(TASKS)
    for twin in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):  # noqa: S301
        assert torch.equal(twin(x), view(x))


def test_tasks_without_names():
    model, x = model_of([3, 2]), torch.randn(4, 8)
    assert torch.equal(one_task_view(model, 0)(x), model(x)[0])


class Several(nn.Module):
    """Outputs as models of transformers, and those with auxiliary classifiers, have them."""

    def __init__(self, form):
        super().__init__()
        self.head, self.form = nn.Linear(8, 5), form

    def forward(self, x):
        z = self.head(x)
        return {"logits": z, "loss": None} if self.form is dict else (z, 2 * z)


def test_the_other_forms_of_outputs():
    x = torch.randn(4, 8)
    model = replace_head(Several(tuple), TASKS, at="head")
    ours, doubled = one_task_view(model, "colour")(x)
    assert torch.equal(ours, model(x)[0]["colour"])
    assert torch.equal(doubled, 2 * ours)
    model = replace_head(Several(dict), TASKS, at="head")
    found = one_task_view(model, "shape")(x)
    assert torch.equal(found["logits"], model(x)["logits"]["shape"])


def test_the_configuration_is_that_of_the_task():
    model = model_of()
    model.config = SimpleNamespace(num_labels=5)
    view = one_task_view(model, "colour", ["red", "blue"])
    assert (view.config.num_labels, model.config.num_labels) == (2, 5)
    assert view.config.id2label == {0: "red", 1: "blue"}
    assert view.config.label2id == {"red": 0, "blue": 1}


def test_what_is_not_possible_is_said():
    model = model_of()
    with pytest.raises(ValueError, match="no task 'size': the tasks are"):
        one_task_view(model, "size")
    with pytest.raises(ValueError, match="labels has 3 names, task 'colour' has 2 classes"):
        one_task_view(model, "colour", ["a", "b", "c"])
    with pytest.raises(ValueError, match="Sequential does not return logits by task"):
        one_task_view(model_of(3), 0)
