"""A checkpoint loads into the head it is of, or says what it is of: never a silent wrong head."""

import io
import re

import pytest
import torch
from torch import nn

from etf_heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    replace_head,
)
from etf_heads.codes import AssignedCode, SimplexCode
from etf_heads.heads import FixedHead
from etf_heads.orientation import Orientation, RandomOrientation
from tests.cases import EVERY_HEAD, all_logits, features

each_head = pytest.mark.parametrize("number", range(len(EVERY_HEAD)), ids=map(str, EVERY_HEAD))


@pytest.fixture(scope="module")
def heads():
    return [case.make().eval() for case in EVERY_HEAD]


@pytest.fixture(scope="module")
def states(heads):
    return [head.state_dict() for head in heads]


_EYE = torch.eye(8)[:, :3]
_TASKS = {"shape": 3, "colour": 2}
_COUNTS = torch.tensor([[4.0, 1.0], [1.0, 4.0]])


def same_logits(one, other, h):
    with torch.no_grad():
        return torch.equal(all_logits(one.eval()(h)), all_logits(other.eval()(h)))


def loads(target, state):
    try:
        target.load_state_dict(state)
    except RuntimeError:
        return False
    return True


@each_head
def test_no_other_checkpoint_loads_into_a_head_silently(number, heads, states):
    target, h = EVERY_HEAD[number].make(), features(EVERY_HEAD[number], 4)
    wrong = [
        saved
        for saved, state in zip(heads, states, strict=True)
        if loads(target, state) and not same_logits(target, saved, h)
    ]
    assert not wrong
    # Anew: a head that took over the order of another is one of that order from then on.
    assert loads(EVERY_HEAD[number].make(), states[number])


def test_a_refused_checkpoint_leaves_the_order_of_classes():
    permuted = FixedHead(8, AssignedCode(SimplexCode(5)), scale=2.0)
    permuted.code.assign(torch.tensor([4, 3, 2, 1, 0]))
    target = ETFHead(8, 5)
    with pytest.raises(RuntimeError, match="another head"):
        target.load_state_dict(permuted.state_dict())
    assert type(target.code) is SimplexCode
    target = FixedHead(8, SimplexCode(5), scale=2.0)
    target.load_state_dict(permuted.state_dict())
    h = torch.randn(3, 8)
    assert torch.equal(target(h), permuted(h))


@pytest.mark.parametrize(
    ("saved", "target"),
    [
        (ETFHead(8, 3, dtype=torch.float64), ETFHead(8, 3, dtype=torch.float32)),
        (ETFHead(8, 3), CompoundETFHead(8, [3])),
        (ETFHead(8, 3, scale=2.0, learn_scale=True), ETFHead(8, 3, scale=5.0, learn_scale=True)),
        (ETFHead(8, 3, orientation="random:4"), ETFHead(8, 3, orientation="random:4").half()),
        (NearestETFHead(8, [3, 2]).freeze(), CompoundETFHead(8, [3, 2], orientation=_EYE)),
        (NearestETFHead(8, 3, decay=0.5), NearestETFHead(8, 3, update_every=4, proximal=1.0)),
        (ETFHead(8, 3, feature_norm=nn.Tanh()), ETFHead(8, 3, feature_norm=nn.Tanh())),
    ],
)  # fmt: skip
def test_what_does_not_change_logits_does_not_stop_loading(saved, target):
    target.load_state_dict(saved.state_dict())
    h = torch.randn(4, 8)
    ours, theirs = (all_logits(head.float().eval()(h)) for head in (target, saved))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


class Upwards(Orientation):
    """One that cannot be written down: its step is kept under another name."""

    def __init__(self, in_features, columns, step):
        super().__init__(in_features, columns)
        self.stride = step

    def project(self, features):
        return features[..., :: self.stride][..., : self.columns]

    def extra_repr(self):
        return f"stride={self.stride}"


def own(step):
    return FixedHead(8, SimplexCode([3]), Upwards(8, 2, step))


@pytest.mark.parametrize(
    ("saved", "target", "message"),
    [
        (ETFHead(8, 3), ETFHead(8, 4), "tasks [3], here [4]"),
        (ETFHead(8, 3), ETFHead(8, 3, scale=2.0), "scale 1.0, here 2.0."),
        (ETFHead(8, 3), ETFHead(8, 3, feature_norm="unit"), "feature_norm None, here 'unit'"),
        (
            ETFHead(8, 3),
            ETFHead(8, 3, orientation="hadamard"),
            "another head: orientation TiledOrientation(columns=3, in_features=8), here Kronecker",
        ),
        (
            ETFHead(8, 3, orientation=RandomOrientation(8, 3, seed=1)),
            ETFHead(8, 3, orientation=RandomOrientation(8, 3, seed=2)),
            "seed=1), here RandomOrientation(",
        ),
        (
            CompoundETFHead(8, {"a": 3, "b": 3}),
            CompoundETFHead(8, {"b": 3, "a": 3}),
            "tasks [['a', 3], ['b', 3]], here [['b', 3], ['a', 3]]",
        ),
        (
            CompoundETFHead(8, [3, 2]),
            CompoundETFHead(8, [3, 2], cross_task="independent"),
            "cross_task='orthogonal'",
        ),
        (
            NearestETFHead(8, _TASKS),
            CompoundETFHead(8, _TASKS),
            "NearestETFHead, here FixedHead (freeze() makes a fixed head",
        ),
        (ClassMeanHead(8, 3), NearestETFHead(8, 3), "ClassMeanHead, here NearestETFHead"),
        (CompoundETFHead(8, [2, 2]), CorrelatedETFHead(8, [2, 2], _COUNTS), "here GramCode("),
        (own(1), own(2), "stride=1"),
        (nn.Linear(8, 3), ETFHead(8, 3), "(head.weight of shape (3, 8)), and a fixed head no"),
        (nn.Linear(8, 3), NearestETFHead(8, 3), "then replace_head(model, aligned=True)"),
        (
            nn.ModuleDict({"shape": nn.Linear(8, 3), "colour": nn.Linear(8, 2)}),
            CompoundETFHead(8, _TASKS),
            "(head.shape.weight of shape (3, 8), head.colour.weight of shape (2, 8))",
        ),
        (nn.Identity(), ETFHead(8, 3), "the checkpoint has something else there"),
        (ETFHead(8, 3), nn.Linear(8, 3), 'Missing key(s) in state_dict: "head.weight"'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("through_a_file", [False, True])
def test_the_error_says_what_the_checkpoint_is_of(saved, target, message, through_a_file):
    state = nn.ModuleDict({"head": saved}).state_dict()
    if through_a_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    model = nn.ModuleDict({"head": target})
    with pytest.raises(RuntimeError, match=re.escape(message)):
        model.load_state_dict(state)


@pytest.mark.parametrize("others", [3, {"a": 3}, {"b": 2, "a": 2}])
def test_heads_of_replaced_classifiers(others):
    def built(tasks):
        return replace_head(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 5)), tasks, at="1")

    built({"a": 2, "b": 2}).load_state_dict(built({"a": 2, "b": 2}).state_dict())
    for one, other in [({"a": 2, "b": 2}, others), (others, {"a": 2, "b": 2})]:
        with pytest.raises(RuntimeError, match="the checkpoint is of another head"):
            built(one).load_state_dict(built(other).state_dict())


def test_loading_without_strict_keeps_the_head_and_reports_it():
    head, other = ETFHead(8, 3, orientation="hadamard"), ETFHead(8, 3)
    before = head.weight
    found = head.load_state_dict(other.state_dict(), strict=False)
    assert torch.equal(head.weight, before)
    assert not found.missing_keys
    (reported,) = found.unexpected_keys
    assert "the checkpoint is of another head" in reported


@pytest.mark.parametrize("make", [lambda: ETFHead(8, 3), lambda: NearestETFHead(8, 3)])
def test_a_class_that_torch_made_of_a_head_is_still_that_head(make):
    head = make()  # fully_shard does this, and wants a process group
    head.__class__ = type("FSDPHead", (type(head),), {"__module__": "torch.distributed.fsdp"})
    make().load_state_dict(head.state_dict())
    head.load_state_dict(make().state_dict())


@pytest.mark.parametrize(
    "damage",
    [
        None,
        7,
        {},
        {"class": "FixedHead"},
        {"class": "FixedHead", "tasks": {"tasks": 5}, 3: 4},
        {"class": "FixedHead", "orientation": {"class": [], "arguments": {"arguments": 1}}},
    ],
)
def test_damaged_metadata_is_another_head(damage):
    state = ETFHead(8, 3).state_dict()
    state._metadata[""]["etf_heads"] = damage
    with pytest.raises(RuntimeError, match="the checkpoint is of another head"):
        ETFHead(8, 3).load_state_dict(state)


def test_only_metadata_tells_what_a_structured_head_is():
    state = ETFHead(8, 3).state_dict()
    assert not state
    assert set(state._metadata) == {"", "codebook", "orientation"}
    # Of tensors alone nothing can be known; save_model is for that.
    ETFHead(8, 3, orientation="hadamard").load_state_dict(dict(state))
