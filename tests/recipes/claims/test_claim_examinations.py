"""Examinations of trained networks by claims: saliency, parts of images, logits."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from etf_heads.geometry import compound_etf
from etf_heads.heads import LinearHead
from recipes.claims import alignment, long_tail, losses
from recipes.claims.dissection import dissected, dissection
from recipes.claims.saliency import overlap, saliency_maps
from recipes.data.images import ImageData, ImageSet


def test_the_overlap_of_maps():
    """Of scaled maps, of disjoint ones, of those that share a quarter; of an empty one, unknown."""
    left, right = np.zeros((4, 2, 2)), np.zeros((4, 2, 2))
    left[0], right[0] = 1, 5
    left[1, 0, 0] = right[1, 1, 1] = 1
    left[2, 0], right[2, 0, 0], right[2, 1, 1] = 1, 1, 3
    left[3] = 1
    np.testing.assert_allclose(overlap(left, right), [1, 0, 0.25, math.nan])


class CornerMaps(nn.Module):
    """Two feature maps: one of the upper left corner of the image, one of the lower right."""

    def __init__(self):
        super().__init__()
        self.brightness = nn.Parameter(torch.ones(1))

    def forward(self, images):
        corners = torch.zeros(2, *images.shape[2:])
        corners[0, :6, :6] = corners[1, 6:, 6:] = 1
        return self.brightness * images * corners


class CornerNetwork(nn.Module):
    """Each of two binary tasks looks at a corner of its own."""

    tasks = ("first", "second")

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(CornerMaps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images):
        means = self.backbone(images.float())
        signs = torch.tensor([1.0, -1.0])
        return {task: z * signs for task, z in zip(self.tasks, means.split(1, dim=1), strict=True)}


def test_saliency_maps_show_the_part_of_the_image_that_decides():
    """A classifier that looks at the upper left corner alone, and one at the lower right."""
    images = torch.randint(1, 255, (5, 1, 12, 12), generator=torch.Generator().manual_seed(0))
    first, second = saliency_maps(CornerNetwork(), images, torch.zeros(5, 2, dtype=torch.long))
    assert first.shape == second.shape == (len(images), 12, 12)
    assert (first[:, :6, :6].sum((1, 2)) > 0.9 * first.sum((1, 2))).all()
    assert (second[:, 6:, 6:].sum((1, 2)) > 0.9 * second.sum((1, 2))).all()


def test_dissection_of_exact_sums():
    generator = torch.Generator().manual_seed(0)
    frame = (
        compound_etf([5, 5]).double()
        @ torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64)).Q
    )
    labels = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    left, right = frame[labels[:, 0]], frame[5 + labels[:, 1]]
    found = dissection(left + right + 7, [left + 3, right], labels, frame)  # centres do not matter
    assert found.own == pytest.approx([1, 1])
    assert found.other == pytest.approx([0, 0], abs=1e-12)
    assert found.spread == pytest.approx([0, 0], abs=1e-12)
    assert found.sum == pytest.approx(1)
    swapped = dissection(left, [right, left], labels, frame)
    assert swapped.own == pytest.approx([0, 0], abs=1e-12)
    assert swapped.sum == pytest.approx(0, abs=1e-12)
    half = dissection(left, [left, right], labels, frame)
    assert half.sum == pytest.approx(0.5**0.5)


def test_a_dissected_image_is_one_picture_where_it_stood():
    images = torch.arange(1, 1 + 2 * 8 * 16, dtype=torch.uint8).reshape(2, 1, 8, 16)
    right = dissected(images, 8, (0, 8))
    assert torch.equal(right[..., 8:], images[..., 8:])
    assert not right[..., :8].any()
    assert torch.equal(right + dissected(images, 8, (0, 0)), images)


class Recorded(nn.Module):
    """The same logits (N, K) of every task, whatever the images."""

    def __init__(self, logits, tasks):
        super().__init__()
        self.logits, self.tasks = logits, tasks

    def features_and_logits(self, images):
        return images.float().flatten(1), dict.fromkeys(self.tasks, self.logits)


def images_of(labels):
    """Black images of these labels."""
    labels = torch.tensor(labels)
    return ImageSet(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)


def test_the_logit_gap_is_the_right_logit_less_the_mean_of_the_others():
    images = images_of([[0, 2], [1, 1]])
    network = Recorded(torch.tensor([[5.0, 1.0, 3.0], [0.0, 2.0, 4.0]]), ("a", "b"))
    data = ImageData({"a": 3, "b": 3}, train=images, test=images, shift=0)
    found = losses.examine(network, data, None)
    np.testing.assert_allclose(found.gap, np.mean([5 - 2, 3 - 3, 2 - 2, 2 - 2]))


def test_accuracy_by_the_number_of_training_images_of_the_class():
    train = images_of([[0]] * 101 + [[1]] * 100 + [[2]] * 19)
    test = images_of([[0], [0], [1], [2]])
    logits = torch.eye(3)[[0, 1, 1, 0]]  # right, wrong, right, wrong
    data = ImageData({"kind": 3}, train=train, test=test, shift=0)
    found = long_tail.examine(Recorded(logits, ("kind",)), data, None)
    assert found == long_tail.Shots(many=0.5, medium=1.0, few=0.0)
    data = ImageData({"kind": 3}, train=train, test=images_of([[1]] * 4), shift=0)
    found = long_tail.examine(Recorded(logits, ("kind",)), data, None)
    assert found == long_tail.Shots(many=None, medium=0.5, few=None)


def test_exponent_and_cosine_do_not_depend_on_where_and_how_large_the_features_are():
    images, classes = torch.zeros(6, 1, 1, 2, dtype=torch.uint8), torch.arange(6) % 3
    data = ImageData(
        {"kind": 3},
        train=ImageSet(images, classes[:, None]),
        test=ImageSet(images, classes[:, None]),
        shift=0,
    )
    etf = torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]])
    turn = torch.tensor([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]).float()
    head = LinearHead(2, {"kind": 3})
    centre = torch.tensor([4.0, -1.0])
    with torch.no_grad():
        head.weight.copy_(2 * etf @ turn)
        head.bias.copy_(-head.weight @ centre)

    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def features(self, images):
            return 7 * etf[classes[: len(images)]] + centre

    found = alignment.examine(Placed(), data, None)
    np.testing.assert_allclose(found.cosine, np.cos(0.4), rtol=1e-6)
    # the angle from the mean to the nearest boundary of two neighbours, 60 degrees less the turn
    np.testing.assert_allclose(found.exponent, np.sin(np.pi / 3 - 0.4) ** 2 / 2, rtol=1e-6)
