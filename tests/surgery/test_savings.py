"""Counts agree with what PyTorch and safetensors really make."""

import copy
import functools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_model
from torch import nn

from etf_heads import ETFHead, replace_head, savings
from etf_heads.surgery import ModelCosts, model_costs

SGD = torch.optim.SGD
NAMES = "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD"
STEPPED = {name: getattr(torch.optim, name) for name in NAMES.split()} | {
    "momentum": functools.partial(SGD, lr=0.1, momentum=0.9),
    "centred": functools.partial(torch.optim.RMSprop, centered=True, momentum=0.5),
    "amsgrad": functools.partial(torch.optim.AdamW, amsgrad=True),
    "fused": functools.partial(torch.optim.AdamW, fused=True),
    "single": functools.partial(torch.optim.Adam, foreach=False),
}


def network(dtype=torch.float32):
    convolution = nn.Conv2d(3, 8, 3, dtype=dtype), nn.BatchNorm2d(8, dtype=dtype)
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(32, 5, dtype=dtype))


def really(model, make):
    """State bytes of an optimiser that has stepped on real tensors."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = make(trainable)
    for parameter in trainable:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = (v for state in optimizer.state.values() for v in state.values())
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_optimizer_state_is_what_a_real_step_makes(name, dtype):
    model = network(dtype)
    model[0].bias.requires_grad_(False)
    counted = model_costs(model.to("meta"), STEPPED[name])
    real = network(dtype)
    real[0].bias.requires_grad_(False)
    assert counted.optimizer_state_bytes == really(real, STEPPED[name])


def test_a_name_a_class_and_a_function_say_the_same():
    model = network()
    by_name, by_class = model_costs(model, "Adam"), model_costs(model, torch.optim.Adam)
    assert by_name == by_class

    def adam(parameters):
        return torch.optim.Adam(parameters)

    by_function = model_costs(model, adam)
    assert by_function.optimizer_state_bytes == by_name.optimizer_state_bytes
    assert by_function.optimizer == "adam"
    assert model_costs(model, STEPPED["momentum"]).optimizer == "SGD(lr=0.1, momentum=0.9)"


def test_counts_of_parameters_and_gradients():
    model = network(torch.float64)
    model[1].requires_grad_(False)
    costs = model_costs(model)
    weights, norm = 8 * 3 * 9 + 8 + 5 * 32 + 5, 16
    assert costs.parameters == weights + norm
    assert costs.trainable_parameters == weights
    assert costs.gradient_bytes == 8 * weights


class Tied(nn.Module):
    """Shared parameters, a shared view, an unsaved buffer, and a state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("also_seen", self.seen.view(3))
        self.register_buffer("unsaved", torch.zeros(1000), persistent=False)


@pytest.mark.parametrize("build", [network, Tied, lambda: nn.Sequential(ETFHead(8, 4, True))])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_checkpoint_is_what_safetensors_writes_behind_its_header(build, device, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(build(), str(path))
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    with torch.device(device):
        counted = model_costs(build()).checkpoint_bytes
    assert counted == len(content) - 8 - header


def test_shared_parameters_are_counted_once():
    assert model_costs(Tied()).parameters == 7 * 4 + 7
    assert model_costs(Tied(), "Adam").optimizer_state_bytes == really(Tied(), torch.optim.Adam)


def test_nothing_is_changed_and_nothing_takes_memory():
    model = network()
    before = copy.deepcopy(model.state_dict())
    model_costs(model)
    assert all(p.grad is None for p in model.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )
    with torch.device("meta"):
        huge = nn.Linear(2**20, 2**20, bias=False)  # 4 TiB, with 8 TiB of state
    costs = model_costs(huge)
    assert costs.gradient_bytes == costs.checkpoint_bytes == 2**42
    assert costs.optimizer_state_bytes == 2**43 + 4


@settings(max_examples=20)  # a formula of three numbers
@given(st.integers(2, 40), st.integers(2, 41), st.booleans())
def test_a_fixed_head_saves_its_linear_layer(features, classes, bias):
    classes = min(classes, features + 1)
    model = nn.Sequential(nn.Linear(3, features), nn.Linear(features, classes, bias=bias))
    before = model_costs(model)
    found = savings(before, replace_head(model, at="1"))
    head = features * classes + bias * classes
    assert found.saved == {
        "parameters": head,
        "trainable_parameters": head,
        "gradient_bytes": 4 * head,
        "optimizer_state_bytes": 8 * head + 4 * (1 + bias),
        "checkpoint_bytes": 4 * head,
    }
    assert math.isclose(found.percent["parameters"], 100 * head / (head + 4 * features))


def test_the_result_prints_as_table_dict_and_line():
    before, after = nn.Linear(100, 10), nn.Linear(100, 10, bias=False)
    found = savings(before, after, "SGD")
    assert str(found).splitlines() == [
        "with SGD                before  after  saved",
        "parameters               1,010  1,000     10  -0.99%",
        "trainable parameters     1,010  1,000     10  -0.99%",
        "gradients, bytes         4,040  4,000     40  -0.99%",
        "optimiser state, bytes       0      0      0",
        "checkpoint, bytes        4,040  4,000     40  -0.99%",
    ]
    assert found.line().startswith("parameters 1,010 -> 1,000 (-0.99%); ")
    assert "optimiser state, bytes 0 -> 0;" in found.line()
    assert "\n" not in found.line()
    found_dict = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert ModelCosts(**found_dict["before"]) == found.before
    assert found_dict["saved"]["gradient_bytes"] == 40
    assert found_dict["percent"]["optimizer_state_bytes"] is None


def test_an_increase_is_shown_as_more():
    found = savings(nn.Linear(4, 4, bias=False), nn.Linear(4, 8, bias=False))
    assert found.saved["parameters"] == -16
    assert found.percent["parameters"] == -100
    assert "(+100.00%)" in found.line()


def test_no_parameters_have_no_state():
    costs = model_costs(ETFHead(8, 4))
    assert (costs.parameters, costs.optimizer_state_bytes, costs.checkpoint_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("Adamm", "optimizer='Adamm' is none of torch.optim's: ASGD, .*AdamW"),
        ("Optimizer", "none of torch.optim's"),
        (0.1, "optimizer must be a name, a class or a function .*, got 0.1"),
        ("LBFGS", "optimizer=LBFGS takes no step .*closure"),
        ("Muon", "optimizer=Muon takes no step .*2D parameters"),
        (functools.partial(SGD, lr=-1.0), r"SGD\(lr=-1.0\) takes no step .*learning rate"),
    ],
)
def test_optimizers_that_cannot_be_counted_are_named(optimizer, message):
    with pytest.raises(ValueError, match=message):
        model_costs(network(), optimizer)


def test_lazy_parameters_are_refused():
    with pytest.raises(ValueError, match=r"lazy parameters.*one batch"):
        savings(nn.LazyLinear(3), nn.Linear(3, 3))


def test_costs_of_different_optimizers_are_not_compared():
    before = model_costs(network(), "SGD")
    with pytest.raises(ValueError, match="before was counted with SGD and after with AdamW"):
        savings(before, network())
