"""MultiSourceHead has the logits of its heads, each of which observes its own task's samples."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etf_heads import ClassMeanHead, CompoundETFHead, ETFHead, NearestETFHead
from etf_heads.heads import MultiSourceHead
from etf_heads.losses import CompoundCrossEntropy

NONE = -100


def parts(**options):
    return {
        "fixed": ETFHead(6, 4, orientation="random:0", **options),
        "nearest": NearestETFHead(6, 3, **options),
        "means": ClassMeanHead(6, {"means": 2}, **options),
    }


def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randint(k, (40,), generator=generator) for k in (4, 3, 2)], dim=1)
    owner = torch.randint(3, (40,), generator=generator)
    labels[torch.arange(3) != owner[:, None]] = NONE
    return torch.randn(40, 6, generator=generator), labels


@pytest.mark.parametrize("kind", [None, "batch", "layer", "unit"])
def test_logits_are_those_of_each_head_on_normalised_features(kind):
    heads = parts(bias=True)
    head = MultiSourceHead(heads, feature_norm=kind).eval()
    features = torch.randn(5, 2, 6)
    normalised = features if head.norm is None else head.norm(features)
    for task, logits in head(features).items():
        torch.testing.assert_close(logits, heads[task].all_logits(normalised))
    dense = normalised @ head.weight.mT + head.bias
    torch.testing.assert_close(torch.cat(list(head(features).values()), -1), dense)
    assert torch.equal(head.task_weight("nearest"), heads["nearest"].weight)


def test_each_head_observes_the_samples_of_its_own_task():
    features, labels = batch()
    head = MultiSourceHead(parts()).train()
    alone = copy.deepcopy(head)
    logits = head(features, labels)
    for column, task in enumerate(head.tasks.names):
        own = labels[:, column] != NONE
        single = alone.heads[column]
        if task != "fixed":
            found = single(features[own], labels[own, column])
            found = found["means"] if isinstance(found, dict) else found
            torch.testing.assert_close(logits[task][own], found)
            assert not logits[task][~own].any()
        torch.testing.assert_close(head.task_weight(task), single.weight)
    before = head.weight
    head.eval()(features, labels)
    assert torch.equal(head.weight, before)


def test_losses_take_it_with_missing_labels():
    features, labels = batch()
    head = MultiSourceHead(list(parts(bias=True).values()), feature_norm="layer")
    logits = head(features)
    assert isinstance(logits, tuple)
    expected = sum(F.cross_entropy(z, y) for z, y in zip(logits, labels.T, strict=True))
    torch.testing.assert_close(CompoundCrossEntropy()(features, head, labels), expected)


def test_biases_are_zero_where_a_head_has_none():
    head = MultiSourceHead({"a": ETFHead(6, 4, bias=True), "b": ETFHead(6, 3)})
    nn.init.ones_(head.heads[0].bias)
    assert head.bias.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert MultiSourceHead({"a": ETFHead(6, 4)}).bias is None


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], r"got in_features \[\]"),
        ([ETFHead(6, 3), ETFHead(5, 3)], r"got in_features \[5, 6\]"),
        ({"a": nn.Linear(6, 3)}, r"heads\['a'\] must be a head of one task, got Linear"),
        ([CompoundETFHead(6, [2, 2])], r"heads\[0\] must be a head of one task, got .* 2 tasks"),
        ([ETFHead(6, 3, feature_norm="layer")], r"heads\[0\] has a normalisation of its own"),
    ],
)
def test_heads_that_do_not_fit_are_named(heads, message):
    with pytest.raises(ValueError, match=message):
        MultiSourceHead(heads)


def test_synchronised_batch_normalisation_takes_features_of_any_shape():
    head = MultiSourceHead(parts(), feature_norm="batch")
    twin = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(head))
    features = 5 + 3 * torch.randn(6, 6, 6)
    for task, logits in twin(features).items():
        torch.testing.assert_close(logits, head(features)[task])
