"""Operations of a training step on its device, recorded one by one on a CPU.

A GPU's work is queued, and Python prepares what comes next, until it asks for a number, or for a
tensor whose shape is a number that the GPU has.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY
from torch.utils._python_dispatch import TorchDispatchMode

from recipes.data.images import ImageData, ImageSet
from recipes.training.engine import Run
from recipes.training.processes import make_accelerator

pytestmark = pytest.mark.recipes
BATCH = 20
SMALL = replace(TINY, batch_size=BATCH, width=8, checkpoint_every=0)
WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
}
CONVOLUTIONS = {
    torch.ops.aten.convolution.default: ("input", "weight"),
    torch.ops.aten.convolution_backward.default: ("gradient", "input", "weight"),
}


class Operations(TorchDispatchMode):
    """Counts what waits for a GPU, and notes how the tensors of convolutions lie in memory."""

    def __init__(self):
        super().__init__()
        self.waits, self.layouts = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.waits[function.name()] += waits(function, args, kwargs or {})
        for name, tensor in zip(CONVOLUTIONS.get(function, ()), args, strict=False):
            self.layouts[name, tensor.is_contiguous(memory_format=torch.channels_last)] += 1
        return function(*args, **(kwargs or {}))


def waits(function, args, kwargs):
    if function in INDEXING:  # a mask is turned into as many indices as are set in it
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    if function is torch.ops.aten._to_copy.default:
        return kwargs.get("device", args[0].device) != args[0].device
    return bool(WAITING & set(function.tags))


def an_epoch(steps, **settings):
    config = replace(SMALL, **settings)
    images = torch.randint(256, (steps * BATCH, 3, 16, 12), dtype=torch.uint8)
    labels = torch.randint(10, (len(images), 2))
    split = ImageSet(images, labels)
    data = ImageData({"left": 10, "right": 10}, split, split, shift=2, flip=True)
    run = Run(config, make_accelerator(config), data)
    with Operations() as seen, run.progress_bar() as bar:
        run.train_epoch(bar)
    assert run.steps == steps
    return seen


def waits_a_step(**settings):
    """What an epoch's beginning and end ask for is left out."""
    more, fewer = (an_epoch(steps, **settings).waits for steps in (5, 3))
    return (more - fewer).total() / 2


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("head", ["learned", "learned-norm", "compound", "correlated"])
def test_no_step_waits_for_the_device(head, augment):
    assert waits_a_step(head=head, augment=augment) == 0


@pytest.mark.parametrize("weighting", ["uncertainty", "dwa"])
def test_no_weighting_by_losses_waits_either(weighting):
    assert waits_a_step(weighting=weighting) == 0


@pytest.mark.parametrize(("head", "number"), [("class-mean", 1), ("nearest", 4)])
def test_heads_that_follow_the_features_wait_for_their_checks(head, number):
    """Features and means that are not finite are refused, lost dimensions are looked for."""
    assert waits_a_step(head=head) == number


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("backbone", ["cnn", "resnet18"])
def test_no_convolution_has_to_change_a_layout(backbone, augment):
    layouts = an_epoch(2, backbone=backbone, augment=augment).layouts
    assert set(layouts) == {(name, True) for name in ("gradient", "input", "weight")}


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x.to("meta"),
    ],
)
def test_what_waits_is_noticed(ask):
    with Operations() as seen:
        ask(torch.randn(4))
    assert seen.waits.total() == 1
