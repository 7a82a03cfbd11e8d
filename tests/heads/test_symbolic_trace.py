"""torch.fx.symbolic_trace, which quantisers and feature extractors start from."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn

from tests.cases import EVERY_HEAD, REPRESENTATIVES, HeadCase, features
from tests.heads.test_head_contract import logits


class Model(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.backbone = nn.Linear(case.in_features, case.in_features, dtype=torch.float64)
        self.head = case.make()

    def forward(self, images):
        return self.head(self.backbone(images).relu())


@pytest.mark.parametrize("case", REPRESENTATIVES, ids=str)
def test_a_head_in_a_model_is_one_node(case):
    model = Model(case).eval()
    traced = fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["backbone", "head"]
    h = features(case, 5)
    for program in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):  # noqa: S301
        assert torch.equal(logits(program, h), logits(model, h))


@pytest.mark.parametrize("case", [c for c in EVERY_HEAD if c.orientation != "nearest"], ids=str)
def test_a_fixed_head_alone(case):
    head = case.make()
    head.train()(features(case, 8))  # moves running statistics, where there are any
    before = set(vars(head))
    traced = fx.symbolic_trace(head.eval())
    assert set(vars(head)) == before
    assert {n for n, _ in traced.named_parameters()} == {n for n, _ in head.named_parameters()}
    traced.graph.eliminate_dead_code()
    traced.recompile()
    h = features(case, 5)
    assert torch.equal(logits(traced, h), logits(head, h))


def test_outputs_of_several_tasks_are_used_by_name():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = HeadCase(12, {"a": 3, "b": 3}).make()

        def forward(self, h):
            out = self.head(h)
            return out["a"] + out["b"]

    model, h = Sum(), torch.randn(2, 12, dtype=torch.float64)
    assert torch.equal(fx.symbolic_trace(model)(h), model(h))
