"""A code needs no file but its own: every row of CODES is a head, in models, files and losses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etf_heads import replace_head, savings
from etf_heads.codes import CrossPolytopeCode
from etf_heads.heads import FixedHead, from_spec, to_spec
from etf_heads.losses import NONL, NTCE, CompoundCrossEntropy, NormalizedCrossEntropy
from etf_heads.surgery import load_model, save_model
from tests.cases import CODES, EVERY_HEAD, all_logits
from tests.codes.two_bases import TwoBasesCode
from tests.losses.loss_cases import HEADS as HEADS_OF_LOSSES

each_code = pytest.mark.parametrize("name", CODES)


def network(last):
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), last)


def learned(code):
    return network(nn.Linear(24, code.rows))


@each_code
def test_a_model_takes_it_and_a_file_brings_it_back(name, tmp_path):
    code, path, x = CODES[name](), tmp_path / "model.safetensors", torch.randn(5, 8)
    model = replace_head(learned(code), lambda d: FixedHead(d, CODES[name](), scale=2.0), at="2")
    logits = model(x)
    assert type(logits) is type(code.tasks.split(torch.zeros(5, code.rows)))
    assert all_logits(logits).shape == (5, code.rows)
    save_model(model, path)
    twin = load_model(learned(code), path)
    assert torch.equal(all_logits(twin(x)), all_logits(logits))
    assert repr(twin) == repr(model)
    twin.load_state_dict(model.state_dict())
    assert savings(learned(code), model)


@each_code
def test_losses_take_it(name):
    head = FixedHead(24, CODES[name](), dtype=torch.float64)
    h = torch.randn(7, 24, dtype=torch.float64, requires_grad=True)
    labels = torch.stack([torch.randint(k, (7,)) for k in head.tasks.sizes], dim=-1)
    ours = CompoundCrossEntropy()(h, head, labels)
    logits = all_logits(head(h)).split(head.tasks.sizes, dim=-1)
    plain = sum(F.cross_entropy(z, y) for z, y in zip(logits, labels.unbind(-1), strict=True))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    for loss in (NormalizedCrossEntropy(), NTCE(), NONL()):
        assert loss(h, head, labels).isfinite()


def test_a_code_that_ignores_the_columns_asked_for_is_refused():
    with pytest.raises(ValueError, match="the code has 6 columns, the orientation 1"):
        FixedHead(10, CrossPolytopeCode({"a": 7, "b": 4}, 6), torch.eye(10)[:, :1])


def test_the_made_up_code_is_in_every_table_and_knows_its_geometry():
    for heads in (EVERY_HEAD, HEADS_OF_LOSSES):
        cases = [case for case in heads if case.tasks == "two bases"]
        assert all(isinstance(case.make().code, TwoBasesCode) for case in cases)
        assert cases
    head = FixedHead(10, TwoBasesCode(12), "hadamard", dtype=torch.float64)
    gram = head.weight @ head.weight.T
    for basis in (gram[:6, :6], gram[6:, 6:]):
        torch.testing.assert_close(basis, torch.eye(6, dtype=torch.float64))
    spec = to_spec(head)
    arguments = {"tasks": {"tasks": 12}}
    assert spec["arguments"]["code"] == {"class": "TwoBasesCode", "arguments": arguments}
    assert from_spec(spec, 10).code.columns == 6
    with pytest.raises(ValueError, match=r"in_features=5 is too small for TwoBasesCode .*: 6"):
        FixedHead(5, TwoBasesCode(12))
    with pytest.raises(ValueError, match="the code has 6 columns, the orientation 5"):
        FixedHead(10, TwoBasesCode(12), torch.eye(10)[:, :5])
