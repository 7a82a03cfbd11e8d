"""Class vectors that are the class means themselves."""

import torch
from torch.nn import functional as F

from etf_heads import ClassMeanHead
from tests.cases import class_means
from tests.cases import observed as batch

F64 = torch.float64
TASKS = {"shape": 4, "colour": 3}


def test_class_mean_vectors_are_centred_means_of_unit_length():
    head = ClassMeanHead(2, TASKS, scale=3.0, dtype=F64)  # two dimensions for seven classes
    h, y = batch(TASKS, dim=2)
    assert not head.weight.any()
    head.observe(h, y)
    for task, k in TASKS.items():
        means = class_means(h, y[task], k)
        expected = 3 * F.normalize(means - means.mean(0), dim=1)
        torch.testing.assert_close(head.task_weight(task), expected)


def test_class_means_as_they_are_of_unit_length():
    head = ClassMeanHead(12, TASKS, centred=False, scale=3.0, dtype=F64)
    h, y = batch(TASKS)
    y["shape"].clamp_(max=2)
    head.observe(h, y)
    expected = torch.cat([class_means(h, y["shape"], 3), class_means(h, y["colour"], 3)])
    weight = head.weight
    torch.testing.assert_close(weight[[0, 1, 2, 4, 5, 6]], 3 * F.normalize(expected, dim=1))
    assert not weight[3].any()  # not seen
    head.observe(*batch(TASKS, seed=1))
    assert weight[3].norm() == 0 < head.weight[3].norm()


def test_class_mean_features_average_unit_features_with_momentum():
    """CMF: m_k <- 0.9 m_k + 0.1 mean of the batch; the same directions for batches of one size."""
    head = ClassMeanHead(12, 4, centred=False, feature_norm="unit", dtype=F64)
    average = torch.zeros(4, 12, dtype=F64)
    for seed in range(5):
        h = batch(4, 32, seed=seed)[0] + 1
        y = torch.arange(32) % 4
        head.observe(h, y)
        average = 0.9 * average + 0.1 * class_means(F.normalize(h, dim=1), y, 4)
    torch.testing.assert_close(head.weight, F.normalize(average, dim=1))


def test_class_mean_head_gives_classes_without_a_direction_logit_zero():
    head = ClassMeanHead(12, 4, gradient=True, dtype=F64)
    h, y = batch(4)
    h.requires_grad_()
    one = head(h, torch.zeros_like(y))  # one class seen: its mean is the centre
    one.sum().backward()
    assert not one.any()
    assert h.grad.isfinite().all()
    assert not head(h, y.clamp(0, 2))[:, 3].any()
