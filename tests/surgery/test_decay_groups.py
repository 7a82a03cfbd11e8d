"""Parameter groups that give the layer before a fixed head the decay of the removed head."""

import logging
import math
import warnings

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from etf_heads import ClassMeanHead, CompoundETFHead, ETFHead, replace_head
from etf_heads.surgery import decay_groups, narrow_features
from tests.surgery.architectures import TRANSFORMERS


def decays(model, groups):
    """Weight decay by parameter name; every parameter in exactly one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in found
            found[name] = group["weight_decay"]
    assert set(found) == set(names.values())
    return found


def doubled(model, **options):
    groups = decay_groups(model, 1.0, **options)
    return {name for name, decay in decays(model, groups).items() if decay == 2.0}


def mlp(last=None):
    layers = [nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.GELU()]
    return nn.Sequential(*layers, nn.Dropout(0.5), last or ETFHead(12, 3, bias=True))


class Residual(nn.Module):
    """Features are a sum, by functions that are no modules; registered in another order."""

    def __init__(self, norm=None):
        super().__init__()
        self.head = ETFHead(12, 3)
        self.second = nn.Linear(12, 12)
        self.first = nn.Linear(8, 12)
        self.unused = nn.Linear(12, 12)
        self.norm = norm

    def forward(self, x):
        h = self.first(x).relu_()
        h = h + self.second(torch.tanh(h)) * 2
        h = h if self.norm is None else self.norm(h)
        return self.head(h[None].mean(0))


def test_groups_of_a_small_network():
    model = mlp()
    for example in (None, torch.randn(4, 8)):
        found = decays(model, decay_groups(model, 0.1, multiplier=10, example=example))
        assert {n for n, d in found.items() if d == pytest.approx(1.0)} == {"3.weight"}
        assert {n for n, d in found.items() if d == 0.1} == {"0.weight"}
        assert {n for n, d in found.items() if d == 0} == {
            "0.bias", "1.weight", "1.bias", "3.bias", "6.bias",
        }  # fmt: skip
    everything = decays(model, decay_groups(model, 0.1, decay_vectors=True))
    assert {n for n, d in everything.items() if d == 0.2} == {"3.weight"}
    assert set(everything.values()) == {0.1, 0.2}


def test_any_optimiser_takes_them():
    model = mlp()
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        optimiser = kind(decay_groups(model, 0.1), lr=0.1)
        model(torch.randn(4, 8)).sum().backward()
        optimiser.step()
        assert sorted(g["weight_decay"] for g in optimiser.param_groups) == [0.0, 0.1, 0.2]


def test_an_example_follows_the_features_and_leaves_no_trace():
    model = Residual().train()
    for parameter in model.first.parameters():
        parameter.requires_grad_(False)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    assert doubled(model, example=torch.randn(4, 8)) == {"first.weight", "second.weight"}
    assert doubled(model, example=(torch.randn(4, 8),)) == {"first.weight", "second.weight"}
    assert doubled(model, example={"x": torch.randn(4, 8)}) == {"first.weight", "second.weight"}
    assert model.training
    assert [p.requires_grad for p in model.first.parameters()] == [False, False]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_gates_do_not_make_features():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.gate, self.head = nn.Linear(8, 12), nn.Linear(12, 12), ETFHead(12, 3)

        def forward(self, x):
            h = self.body(x)
            return self.head(h * self.gate(h).sigmoid())

    assert doubled(Gated(), example=torch.randn(4, 8)) == {"body.weight"}
    sigmoid = nn.Sequential(nn.Linear(8, 12), nn.Sigmoid(), ETFHead(12, 3))
    assert doubled(sigmoid, example=torch.randn(4, 8)) == {"0.weight"}


def test_what_is_named_is_taken():
    assert doubled(Residual(), before="unused") == {"unused.weight"}
    assert doubled(Residual(), before=["unused", "first"]) == {"unused.weight", "first.weight"}
    body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12))  # the head is elsewhere
    assert doubled(body, before="2") == {"2.weight"}


def test_wrappers_are_looked_into():
    model = mlp()
    wrapped = torch.compile(nn.DataParallel(model), backend="eager")
    groups = decay_groups(wrapped, 1.0)
    assert {n for n, d in decays(model, groups).items() if d == 2} == {"3.weight"}


def test_convolutions_and_pooling():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), ETFHead(8, 3)
    )
    assert doubled(model) == doubled(model, example=torch.randn(2, 3, 8, 8)) == {"0.weight"}


def test_attention_ends_in_its_projection():
    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = CompoundETFHead(8, [3, 4])

        def forward(self, x):
            return self.head(self.attention(x, x, x)[0].mean(1))

    for example in (None, torch.randn(2, 5, 8)):
        assert doubled(Attentive(), example=example) == {"attention.out_proj.weight"}


NORMS = [nn.BatchNorm1d(12), nn.LayerNorm(12), nn.RMSNorm(12), nn.BatchNorm1d(12, affine=False)]


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_behind_a_normalisation_only_the_scale_is_left(norm):
    model = Residual(norm)
    with pytest.warns(UserWarning, match="'head' behind 'norm'.*head's scale"):
        assert not doubled(model, example=torch.randn(4, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doubled(model, before="second") == {"second.weight"}
        assert not doubled(model, multiplier=1)


@pytest.mark.parametrize("kind", ["batch", "layer", "unit"])
def test_a_head_that_normalises_is_said_as_well(kind):
    model = mlp(ETFHead(12, 3, feature_norm=kind))
    with pytest.warns(UserWarning, match="'6' behind .*Norm"):
        assert not doubled(model)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("vgg11", {"pre_logits.fc2.weight"}, marks=pytest.mark.slow),  # 0.5 GB
        ("test_mambaout", {"head.pre_logits.fc.weight"}),
        ("resnet10t", None),
        ("test_vit", None),
        ("test_efficientnet", None),
        ("mobilenetv3_small_050", {"conv_head.weight"}),
    ],
)
def test_models_of_timm(name, expected):
    model = replace_head(timm.create_model(name, num_classes=10), 10)
    example = torch.randn(2, 3, *model.default_cfg.get("input_size", (3, 32, 32))[1:])
    if expected is not None:
        assert doubled(model, example=example) == expected
    else:
        with pytest.warns(UserWarning, match="behind a normalisation"):
            assert not doubled(model, example=example)
    stated = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    found = decays(model, decay_groups(model, 1.0, multiplier=1))
    assert all(found[name] == 0 for name in stated & set(found))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", {"classifier.4.weight"}),
        ("squeezenet1_1", {"features.12.expand1x1.weight", "features.12.expand3x3.weight"}),
        ("mobilenet_v3_small", {"classifier.0.weight"}),
        ("resnet18", None),
        ("densenet121", None),
        ("lraspp_mobilenet_v3_large", None),
    ],
)
def test_models_of_torchvision(name, expected):
    options = {"weights_backbone": None} if "lraspp" in name else {}
    model = replace_head(torchvision.models.get_model(name, weights=None, **options), 10)
    example = torch.randn(2, 3, 64, 64)
    if expected is not None:
        assert doubled(model, example=example) == expected
    else:
        with pytest.warns(UserWarning, match="behind a normalisation"):
            assert not doubled(model, example=example)


def test_heads_that_only_run_in_training():
    model = torchvision.models.googlenet(weights=None, num_classes=10, init_weights=False)
    replace_head(model, 10)
    with pytest.warns(UserWarning, match="'fc' behind 'inception5b.branch1.bn'"):
        found = doubled(model, example=torch.randn(2, 3, 64, 64))
    assert found == {"aux1.fc1.weight", "aux2.fc1.weight"}


def test_a_projection_of_narrow_features_is_found():
    model = replace_head(narrow_features(torchvision.models.densenet121(weights=None), 10), 10)
    for example in (None, IMAGES):
        assert doubled(model, example=example) == {"classifier.0.weight"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BertForSequenceClassification", {"bert.pooler.dense.weight"}),
        ("RobertaForSequenceClassification", {"classifier.dense.weight"}),
        ("DistilBertForSequenceClassification", {"pre_classifier.weight"}),
        ("LlamaForSequenceClassification", None),
        ("GPT2ForSequenceClassification", None),
    ],
)
def test_models_of_transformers(name, expected):
    kind = getattr(transformers, name)
    model = replace_head(kind(kind.config_class(**TRANSFORMERS[name], num_labels=4)), 4)
    example = {"input_ids": torch.randint(3, 50, (2, 9))}
    for given in (None, example):
        if expected is not None:
            assert doubled(model, example=given) == expected
        else:
            with pytest.warns(UserWarning, match="behind a normalisation"):
                assert not doubled(model, example=given)


def test_several_heads_each_have_their_layer(caplog):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(8, 5)
            self.head_a, self.head_b = ETFHead(6, 3), ClassMeanHead(5, 3)

        def forward(self, x):
            return self.head_a(self.a(x)), self.head_b(self.b(x))

    with caplog.at_level(logging.INFO, "etf_heads"):
        assert doubled(Two(), example=torch.randn(2, 8)) == {"a.weight", "b.weight"}
    assert "Two: 2 times the decay for ['a', 'b']" in caplog.text


def test_the_map_shrinks_as_that_of_a_learned_head():
    """Without a gradient SGD leaves (1 - ηλ)²ⁿ of W₂W₁, and (1 - 2ηλ)ⁿ of the fixed head's map."""
    torch.manual_seed(0)
    rate, decay, steps = 0.1, 1e-3, 50
    body = nn.Linear(8, 6, bias=False, dtype=torch.float64)
    learned = nn.Sequential(body, nn.Linear(6, 4, bias=False, dtype=torch.float64))
    fixed = nn.Sequential(
        nn.Linear(8, 6, bias=False, dtype=torch.float64), ETFHead(6, 4, dtype=torch.float64)
    )

    def shrunk(model, groups):
        optimiser = torch.optim.SGD(groups, lr=rate)
        start = model[1].weight.detach() @ model[0].weight.detach()
        for _ in range(steps):
            optimiser.zero_grad()
            (0 * model(torch.randn(5, 8, dtype=torch.float64))).sum().backward()
            optimiser.step()
        end = model[1].weight.detach() @ model[0].weight.detach()
        ratio = end / start
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
        return float(ratio[0, 0])

    product = shrunk(learned, [{"params": learned.parameters(), "weight_decay": decay}])
    twice = shrunk(fixed, decay_groups(fixed, decay))
    once = shrunk(fixed, decay_groups(fixed, decay, multiplier=1))
    assert product == pytest.approx((1 - rate * decay) ** (2 * steps), rel=1e-12)
    assert twice == pytest.approx((1 - 2 * rate * decay) ** steps, rel=1e-12)
    assert math.log(twice) == pytest.approx(math.log(product), rel=rate * decay)
    assert math.log(once) == pytest.approx(math.log(product) / 2, rel=rate * decay)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (mlp, {"weight_decay": -1}, "weight_decay must be finite and at least 0, got -1"),
        (mlp, {"multiplier": float("inf")}, "multiplier must be finite"),
        (mlp, {"before": "7"}, r"before='7' is not a layer of Sequential.*\['0', '3'\]"),
        (mlp, {"before": "2"}, "before='2' is not a layer of Sequential with a weight matrix"),
        (lambda: mlp(nn.Linear(12, 3)), {}, "Sequential has no fixed head: replace_head first"),
        (lambda: nn.Sequential(ETFHead(8, 3)), {}, "no layer was found before the head '0'"),
    ],
)
def test_bad_input(make, options, message):
    with pytest.raises(ValueError, match=message):
        decay_groups(make(), **({"weight_decay": 0.1} | options))
