"""Specifications and checkpoints written before codes knew their tasks (commit 843a983).

They listed a head's tasks beside its code, also the one of an ETFHead, and called the code "code"
in ``state_dict``.
"""

import json
from pathlib import Path

import pytest
import torch

from etf_heads import CompoundETFHead, CorrelatedETFHead, ETFHead
from etf_heads.heads import check_frame, from_spec, same_head, to_spec
from tests.cases import all_logits

FORMER = json.loads(Path(__file__).with_name("former_specifications.json").read_text())


def restored(name):
    former = FORMER[name]
    width = to_in_features(former["spec"])
    head = from_spec(former["spec"], width).to_empty(device="cpu")
    for module in head.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    state = {key: torch.tensor(value) for key, value in former["state"].items()}
    if state:
        head.load_state_dict(state)
    return head


def to_in_features(spec):
    arguments = spec["arguments"]
    parts = arguments.get("orientation", {"arguments": arguments})
    return parts["arguments"]["in_features"]


@pytest.mark.parametrize("name", FORMER)
def test_former_specifications_make_the_same_heads(name):
    head, spec = restored(name), FORMER[name]["spec"]
    assert type(head).__name__ == spec["class"]
    if "nearest" not in name and "means" not in name:  # which start anew here
        check_frame(head, spec)
    assert same_head(to_spec(head), spec)
    single = name in ("single", "random", "nearest one", "class means one")
    assert head.tasks.single == single
    logits = head.eval()(torch.randn(3, head.in_features, dtype=head.weight.dtype))
    assert isinstance(logits, torch.Tensor) == single
    assert all_logits(logits).shape == (3, head.out_features)


@pytest.mark.parametrize("name", FORMER)
def test_former_descriptions_in_checkpoints_are_of_the_same_heads(name):
    head = restored(name)
    state = head.state_dict()
    state._metadata[""]["etf_heads"] = FORMER[name]["definition"]
    head.load_state_dict(state)
    for other in FORMER:
        state._metadata[""]["etf_heads"] = FORMER[other]["definition"]
        if other != name:
            with pytest.raises(RuntimeError, match="the checkpoint is of another head"):
                head.load_state_dict(state)


def test_the_stored_code_has_a_new_name():
    assert set(FORMER["correlated"]["state"]) == {"code.factor"}
    head = restored("correlated")
    assert set(head.state_dict()) == {"codebook.factor"}
    counts = torch.arange(1.0, 13).reshape(3, 4)
    torch.testing.assert_close(head.weight, CorrelatedETFHead(16, {"a": 3, "b": 4}, counts).weight)


def test_a_single_head_takes_one_task_only():
    spec = to_spec(CompoundETFHead(8, [3, 2])) | {"class": "ETFHead"}
    with pytest.raises(ValueError, match="ETFHead has one task, the code 2"):
        from_spec(spec, 8)
    assert same_head(to_spec(CompoundETFHead(8, [3])), to_spec(ETFHead(8, 3)))
