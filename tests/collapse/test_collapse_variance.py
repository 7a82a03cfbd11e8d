import sys

import numpy as np
import pytest
import torch
from collapse_reference import within_between

from etf_heads.collapse import (
    ClassStatistics,
    VarianceCollapse,
    class_variance,
    cluster_variance,
)


def case(n=200, dim=6, classes=4, noise=0.5):
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return means[labels] + noise * torch.randn(n, dim, generator=generator).double(), labels


def fed(**options):
    measure = VarianceCollapse(6, 4, **options)
    features, labels = case()
    measure.update(features[:120], labels[:120], "train")
    for f, y in zip(features[120:].split(17), labels[120:].split(17), strict=True):
        measure.update(f, y, "test")
    return measure, features, labels


def quotient(features, labels):
    _, _, within, between, _ = within_between(features, list(labels))
    return np.trace(within) / np.trace(between)


def test_train_and_strong_test_variance():
    measure, features, labels = fed(test_samples=0)
    train, test = features.numpy()[:120], features.numpy()[120:]
    expected = {
        "train_variance": quotient(train, labels[:120].tolist()),
        "strong_test_variance": quotient(test, labels[120:].tolist()),
    }
    assert measure.compute() == pytest.approx(expected, rel=1e-6)


@pytest.mark.recipes
def test_weak_test_variance_of_separate_clusters_is_the_strong_one():
    # Clusters far apart are the classes, whatever k-means starts from.
    values = fed()[0].compute()
    assert values["weak_test_variance"] == pytest.approx(values["strong_test_variance"], rel=1e-9)
    features, labels = case()
    assert cluster_variance(features[labels.argsort()], 4) == pytest.approx(
        quotient(features.numpy(), labels.tolist()), rel=1e-9
    )


@pytest.mark.recipes
def test_clusters_need_not_be_the_classes():
    corners = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0]]).repeat(5, 1)
    assert cluster_variance(corners, 3) == 0.0
    measure = VarianceCollapse(2, 3)
    shuffled = torch.arange(15) // 5  # labels that say nothing about the corners
    measure.update(corners, shuffled, "train")
    measure.update(corners, shuffled, "test")
    values = measure.compute()
    assert values["weak_test_variance"] == 0.0
    assert values["strong_test_variance"] > 1


@pytest.mark.recipes
def test_too_few_test_features():
    measure = VarianceCollapse(6, 4, test_samples=3)
    features, labels = case()
    measure.update(features, labels, "train")
    measure.update(features, labels, "test")
    with pytest.raises(ValueError, match="3 test features are too few for 4 clusters"):
        measure.compute()


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'pip install "etf_heads\[recipes\]"'):
        fed()[0].compute()


def test_only_test_features_are_kept():
    measure, *_ = fed(test_samples=30)
    assert [len(measure._sample(source).features) for source in (0, 1)] == [0, 30]


def test_variances_about_the_centres_of_another_time():
    """Hui et al.: early features about the centres that they end in, by hand."""
    early, features, labels = fed(test_samples=30)
    final = VarianceCollapse(6, 4, test_samples=0)
    moved = 0.7 * features + torch.arange(6.0, dtype=torch.float64)
    final.update(moved[:120], labels[:120], "train")
    final.update(moved[120:], labels[120:], "test")
    found = early.compute(centres=final)
    for name, part in (
        ("train_variance", slice(None, 120)),
        ("strong_test_variance", slice(120, None)),
    ):
        h, y, later = features[part].numpy(), labels[part].numpy(), moved[part].numpy()
        centres = np.stack([later[y == k].mean(0) for k in range(4)])
        within = ((h - centres[y]) ** 2).sum(1).mean()
        between = ((centres - centres.mean(0)) ** 2).sum(1).mean()
        assert found.pop(name) == pytest.approx(within / between, rel=1e-9)
    assert not found  # k-means has centres of its own
    own = fed(test_samples=0)[0]
    assert own.compute(centres=own) == pytest.approx(own.compute(), rel=1e-12)


def test_centres_that_do_not_fit():
    features, labels = case()
    whole = ClassStatistics.from_batch(features, labels)
    with pytest.raises(ValueError, match=r"there are no centres of the classes \[1, 3\]"):
        class_variance(whole, whole.of_rows(torch.tensor([True, False, True, False])))
    with pytest.raises(ValueError, match="centres have 5 features, the statistics 6"):
        class_variance(whole, ClassStatistics.from_batch(features[:, :5], labels))
    with pytest.raises(ValueError, match="only one class among the centres were seen"):
        class_variance(whole, whole.of_rows(torch.arange(4) == 2))
    with pytest.raises(ValueError, match="seen no data"):
        fed(test_samples=0)[0].compute(centres=VarianceCollapse(6, 4))
    same = ClassStatistics.from_batch(torch.ones(200, 6), labels)
    assert class_variance(whole, same) == float("inf")
    assert np.isnan(class_variance(same, same))


def test_splits():
    measure = VarianceCollapse(6, 4)
    with pytest.raises(ValueError, match="split='validation' is unknown"):
        measure.update(*case(), "validation")
    measure.update(*case(), "train")
    with pytest.raises(ValueError, match="seen no data of the test split"):
        measure.compute()
