"""Heads that observe, in training: one graph, and each batch observed once."""

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from etf_heads import ClassMeanHead, NearestETFHead, PrototypeHead
from tests.cases import all_logits, observed

MAKERS = {
    "nearest": lambda **o: NearestETFHead(12, {"a": 4, "b": 3}, **o),
    "riemannian": lambda **o: NearestETFHead(12, {"a": 4, "b": 3}, solver="riemannian", **o),
    "proximal": lambda **o: NearestETFHead(12, {"a": 4, "b": 3}, proximal=0.5, bias=True, **o),
    "nearest-gradient": lambda **o: NearestETFHead(12, {"a": 4, "b": 3}, gradient=True, **o),
    "every-second": lambda **o: NearestETFHead(
        12, {"a": 4, "b": 3}, gradient=True, update_every=2, **o
    ),
    "normalised": lambda **o: NearestETFHead(
        12, {"a": 4, "b": 3}, feature_norm="unit", learn_scale=True, **o
    ),
    "means": lambda **o: ClassMeanHead(12, {"a": 4, "b": 3}, **o),
    "uncentred": lambda **o: ClassMeanHead(12, {"a": 4, "b": 3}, centred=False, gradient=True, **o),
    "means-gradient": lambda **o: ClassMeanHead(12, {"a": 4, "b": 3}, gradient=True, **o),
}
DERIVING = tuple(MAKERS)
MAKERS |= {
    "prototypes": lambda **o: PrototypeHead(12, {"a": 4, "b": 3}, means_dtype=torch.float64, **o),
    "rounded": lambda **o: PrototypeHead(12, {"a": 4, "b": 3}, feature_norm=None, **o),
}
COMPILED = {
    **dict.fromkeys(("nearest", "normalised", "means-gradient", "prototypes"), "eager"),
    **dict.fromkeys(("every-second", "rounded"), "aot_eager"),  # takes seconds more
}
"""Backends by default. The others differ in options of the rule, one operator to a compiler."""
each_head = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


class Model(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head
        torch.manual_seed(0)
        self.backbone = nn.Linear(12, 12, dtype=torch.float64)

    def forward(self, images, labels):
        return all_logits(self.head(self.backbone(images), labels))


def steps(model, call):
    """Logits and gradients of three steps with batches of different sizes."""
    found = []
    for seed, size in enumerate((32, 32, 20)):
        images, labels = observed({"a": 4, "b": 3}, size, seed=seed)
        logits = call(images, labels)
        model.zero_grad()
        logits.square().mul(torch.arange(7.0)).mean().backward()
        found += [logits.detach(), model.backbone.weight.grad.clone()]
    return found


def assert_same(model, call):
    reference = copy.deepcopy(model)
    expected = steps(reference, reference)
    for ours, theirs in zip(steps(model, call), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    state = model.state_dict()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        pair if pair in COMPILED.items() else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in product(MAKERS, ("eager", "aot_eager"))
    ],
)
def test_training_compiles_to_one_graph(kind, backend):
    torch.compiler.reset()
    model = Model(MAKERS[kind](dtype=torch.float64))
    assert_same(model, torch.compile(model, fullgraph=True, backend=backend))


def test_a_compiled_batch_is_refused_as_an_eager_one():
    torch.compiler.reset()
    model = Model(MAKERS["nearest"](dtype=torch.float64))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images, labels = observed({"a": 4, "b": 3})
    labels["b"][3] = 3
    with pytest.raises(ValueError, match="labels of task 'b' run from 0 to 3, expected 0 to 2"):
        compiled(images, labels)
    assert not model.head.running.updates


@each_head
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_observes_once(make, reentrant):
    model = Model(make(dtype=torch.float64))

    def call(images, labels):
        features = model.backbone(images)  # tensors only: torch's reentrant kind asks for it
        return checkpoint(
            lambda h: all_logits(model.head(h, labels)), features, use_reentrant=reentrant
        )

    assert_same(model, call)
    assert model.head.running.updates == 3


def test_a_recomputed_batch_that_was_not_the_last_is_an_error():
    model = Model(MAKERS["nearest"](dtype=torch.float64))
    first, second = (observed({"a": 4, "b": 3}, seed=seed) for seed in (0, 1))
    logits = checkpoint(model, *first, use_reentrant=False)
    model(*second)
    with pytest.raises(RuntimeError, match="NearestETFHead was run in a backward pass with anot"):
        logits.sum().backward()


@pytest.mark.parametrize("kind", DERIVING)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operator_keeps_torchs_rules(kind):
    head = MAKERS[kind](dtype=torch.float64)
    images, labels = observed({"a": 4, "b": 3})
    stacked = torch.stack([labels["a"], labels["b"]], dim=-1)
    torch.library.opcheck(
        torch.ops.etf_heads.observe.default,
        (images.requires_grad_(head.gradient), stacked, *head._state(), *head._rule()),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_the_operator_of_rows_keeps_torchs_rules():
    running = MAKERS["rounded"]().running
    images, labels = observed({"a": 4, "b": 3})
    stacked = torch.stack([labels["a"], labels["b"]], dim=-1)
    state = (running.means, running.counts, running.updates)
    torch.library.opcheck(
        torch.ops.etf_heads.observe_rows.default,
        (images, stacked, *state, [4, 3], ["a", "b"], 0.9),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )
