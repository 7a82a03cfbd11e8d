"""LinearHead is ``nn.Linear`` with the interface of the fixed heads."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etf_heads.heads import LinearHead
from etf_heads.losses import CompoundCrossEntropy

TASKS = {"left": 4, "right": 3}


def test_weights_start_as_in_nn_linear():
    torch.manual_seed(0)
    plain = nn.Linear(6, 7)
    torch.manual_seed(0)
    head = LinearHead(6, TASKS)
    assert torch.equal(head.weight, plain.weight)
    assert torch.equal(head.bias, plain.bias)
    assert head.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("kind", [None, "batch", "layer", "unit"])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_linear_layers_of_normalised_features(kind, bias):
    head = LinearHead(6, TASKS, bias, feature_norm=kind).eval()
    features = torch.randn(5, 2, 6)
    normalised = features if head.norm is None else head.norm(features)
    logits = head(features)
    assert list(logits) == list(TASKS)
    for task, layer in head.linears().items():
        torch.testing.assert_close(logits[task], layer(normalised))
        assert torch.equal(layer.weight, head.task_weight(task))
        assert layer.out_features == TASKS[task]


@pytest.mark.parametrize(("tasks", "kind"), [(4, torch.Tensor), ([4, 3], tuple), (TASKS, dict)])
def test_logits_come_as_the_tasks_do(tasks, kind):
    assert isinstance(LinearHead(6, tasks)(torch.randn(5, 6)), kind)


def test_losses_take_it_with_missing_labels():
    head = LinearHead(6, TASKS, feature_norm="layer")
    features, labels = torch.randn(5, 6), torch.randint(3, (5, 2))
    labels[0, 1] = -100
    logits = head(features)
    expected = sum(F.cross_entropy(logits[t], labels[:, n]) for n, t in enumerate(TASKS))
    torch.testing.assert_close(CompoundCrossEntropy()(features, head, labels), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "in_features must be a positive integer"),
        ((4, 1), "tasks_or_classes=1: a task needs at least 2 classes"),
        ((4, {"a": 1}), r"tasks_or_classes\['a'\]=1"),
    ],
)
def test_sizes_that_are_not_possible_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearHead(*arguments)


@pytest.mark.parametrize("shape", [(8,), (4, 5), (6, 6)], ids=str)
def test_synchronised_batch_normalisation_takes_features_of_any_shape(shape):
    head = LinearHead(6, TASKS, feature_norm="batch")
    twin = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(head))
    assert isinstance(twin.norm, nn.SyncBatchNorm)
    features = 5 + 3 * torch.randn(*shape, 6)
    labels = torch.randint(3, (*shape, 2))
    for logits, expected in zip(twin(features).values(), head(features).values(), strict=True):
        torch.testing.assert_close(logits, expected)
    criterion = CompoundCrossEntropy()
    expected = criterion(features, head, labels)
    torch.testing.assert_close(criterion(features, twin, labels), expected)
