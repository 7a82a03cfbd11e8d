"""Checks shared by all training loops."""

import torch
from torch import nn

from etf_heads.heads import Head

TASKS = {"left": 4, "right": 3}


def head_of(model):
    (head,) = (module for module in model.modules() if isinstance(module, Head))
    return head


def check_trained(model, optimizer, before):
    """Every backbone parameter is the optimiser's, and moved; the head is what it was."""
    named = dict(model.named_parameters())
    assert not list(head_of(model).parameters())
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in named.values()} == {id(p) for p in optimizer.state}
    assert any(not torch.equal(p, before[name]) for name, p in named.items())
    assert torch.equal(head_of(model).weight, before["head"])


def snapshot(model):
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    return kept | {"head": head_of(model).weight}


@torch.no_grad()
def check_same_logits(one: nn.Module, other: nn.Module, *inputs, **keywords):
    ours, theirs = (m.eval()(*inputs, **keywords) for m in (one, other))
    if not isinstance(ours, torch.Tensor | dict):
        ours, theirs = ours.logits, theirs.logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
