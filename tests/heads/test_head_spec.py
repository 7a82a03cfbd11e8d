"""Specifications of heads as JSON: every head in the table comes back bit for bit."""

import json

import pytest
import torch
from torch import nn

from etf_heads import ClassMeanHead, CompoundETFHead, ETFHead
from etf_heads.codes import Code, GramCode, SimplexCode
from etf_heads.heads import (
    FixedHead,
    Head,
    check_frame,
    from_linear,
    from_spec,
    same_head,
    to_spec,
)
from etf_heads.orientation import MatrixOrientation, Orientation, RandomOrientation
from tests.cases import EVERY_HEAD, all_logits, orthonormal


def class_means():
    head = ClassMeanHead(6, {"a": 4, "b": 3}, decay=0.5, update_every=2, dtype=torch.float64)
    labels = {"a": torch.tensor([0, 1, 2, 3]), "b": torch.tensor([2, 1, 0, 0])}
    head.observe(torch.randn(4, 6, dtype=torch.float64), labels)
    return head


OTHERS = {
    "bfloat16": lambda: ETFHead(40, 5, orientation="random:9", bias=True).bfloat16(),
    "float16": lambda: ETFHead(40, 5, orientation=orthonormal(40, 5), dtype=torch.float16),
    "orientation wider than head": lambda: ETFHead(
        8, 3, orientation=RandomOrientation(8, 3, seed=4, dtype=torch.float64)
    ),
    "aligned": lambda: from_linear(nn.Linear(12, 5)),
    "scale set later": lambda: scaled(ETFHead(8, 3), 7.0),
    "one task by name": lambda: CompoundETFHead(8, {"only": 3}),
}
every_head = pytest.mark.parametrize(
    "make",
    [*(case.make for case in EVERY_HEAD), *OTHERS.values()],
    ids=[*map(str, EVERY_HEAD), *OTHERS],
)


def scaled(head, scale):
    head.scale = scale
    return head


def restored(head):
    spec = json.loads(json.dumps(to_spec(head), allow_nan=False))
    twin = from_spec(spec, head.in_features).to_empty(device="cpu")
    twin.load_state_dict(head.state_dict())
    check_frame(twin, spec)
    return twin


@every_head
def test_round_trip_is_bit_equal(make):
    head = make()
    for parameter in head.parameters():
        if parameter.ndim < 2:  # bias and scale; an orientation stays on its manifold
            nn.init.uniform_(parameter, 0.5, 1.5)
    h = torch.randn(8, head.in_features, dtype=head.weight.dtype)
    head.train()(h)  # moves running statistics, where there are any
    twin = restored(head)
    assert type(twin) is type(head)
    assert repr(twin) == repr(head)
    ours, theirs = head.eval()(h), twin.eval()(h)
    assert type(ours) is type(theirs)
    assert torch.equal(all_logits(ours), all_logits(theirs))
    assert torch.equal(twin.weight, head.weight)
    assert twin.weight.dtype == head.weight.dtype
    assert same_head(to_spec(twin), to_spec(head))


def test_every_head_code_and_orientation_of_the_package_is_in_the_table():
    heads = [make() for make in [*(case.make for case in EVERY_HEAD), *OTHERS.values()]]
    covered = {type(module) for head in heads for module in head.modules()}
    assert {ETFHead, ClassMeanHead} <= concrete(Head) <= covered
    assert {MatrixOrientation, RandomOrientation} <= concrete(Orientation) <= covered
    assert {GramCode, SimplexCode} <= concrete(Code) <= covered


def concrete(base):
    """Classes of the package that no other class of the package is made from."""
    house = {cls for cls in descendants(base) if cls.__module__.startswith("etf_heads.")}
    return {cls for cls in house if not house & set(cls.__subclasses__())}


def descendants(base):
    return {cls for child in base.__subclasses__() for cls in {child, *descendants(child)}}


def test_an_observing_head_goes_on_observing_as_it_was():
    head = class_means()
    twin = restored(head)
    batch = (
        torch.randn(5, 6, dtype=torch.float64),
        {
            "a": torch.randint(4, (5,)),
            "b": torch.randint(3, (5,)),
        },
    )
    for observer in (head, twin):
        for _ in range(3):
            observer.observe(*batch)
    assert torch.equal(head.weight, twin.weight)


def test_another_geometry_is_noticed():
    right = to_spec(ETFHead(16, 5, orientation="random:1"))
    assert not same_head(right, to_spec(ETFHead(16, 5, orientation="random:2")))
    assert not same_head(right, to_spec(ETFHead(16, 5)))
    assert not same_head(right, to_spec(ETFHead(16, 5, orientation="random:1", scale=2.0)))
    other = ETFHead(16, 5, orientation="random:2")
    with pytest.raises(ValueError, match="class vectors of ETFHead are not those that were saved"):
        check_frame(other, right)
    permuted = MatrixOrientation(ETFHead(16, 5).orientation.matrix()[:, [1, 0, 2, 3, 4]])
    with pytest.raises(ValueError, match="not those that were saved"):
        check_frame(ETFHead(16, 5, orientation=permuted), to_spec(ETFHead(16, 5)))


class Kept(Orientation):
    """The reversed canonical one, as a user might write it: its arguments are its attributes."""

    def project(self, features):
        return features.flip(-1)[..., : self.columns]

    def lift(self, coordinates):
        return nn.functional.pad(coordinates, (0, self.in_features - self.columns)).flip(-1)


class Lost(Kept):
    def __init__(self, in_features, columns, turn):
        super().__init__(in_features, columns)
        self.turned_by = turn


class Warm(ETFHead):
    def __init__(self, *args, temperature=1.0):
        super().__init__(*args)
        self.temperature = temperature


def test_what_users_write_is_restored_or_refused():
    head = ETFHead(8, 3, orientation=Kept(8, 3))
    assert torch.equal(restored(head).weight, head.weight)
    with pytest.raises(
        ValueError, match=r"Lost cannot be described in JSON: it keeps no attribute .*turn"
    ):
        to_spec(ETFHead(8, 3, orientation=Lost(8, 3, 5)))
    with pytest.raises(ValueError, match=r"Warm would not come back the same .*'temperature'"):
        to_spec(Warm(8, 3, temperature=2.0))
    with pytest.raises(ValueError, match="are not finite: nothing worth saving"):
        to_spec(spoilt())


def spoilt():
    head = ETFHead(8, 3, orientation=orthonormal(8, 3))
    head.orientation.basis.fill_(float("nan"))
    return head


def test_a_normalisation_of_ones_own_is_described_and_not_made():
    norm = nn.BatchNorm1d(8)
    spec = to_spec(ETFHead(8, 3, feature_norm=norm))
    assert same_head(spec, to_spec(ETFHead(8, 3, feature_norm=nn.BatchNorm1d(8))))
    assert not same_head(spec, to_spec(ETFHead(8, 3, feature_norm="batch")))
    with pytest.raises(
        ValueError, match=r"a module of your own, 'BatchNorm1d\(8, .*put it in place"
    ):
        from_spec(spec, 8)


def edited(**changes):
    spec = to_spec(ETFHead(8, 3))
    for path, value in changes.items():
        *parents, key = path.split("__")
        place = spec
        for parent in parents:
            place = place[parent]
        place[key] = value
    return spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "not a specification: None"),
        ([], "not a specification"),
        ("ETFHead", "not a specification: 'ETFHead'"),
        ({}, "not a specification"),
        (edited(**{"class": "Popen"}), "no class of this name: 'Popen'"),
        (edited(**{"class": "TiledOrientation"}), "not a specification: .*unexpected keyword"),
        (edited(arguments__scale=-1.0), "scale must be a positive finite number"),
        (edited(arguments__scale="1"), "not a specification"),
        (edited(arguments__scale=float("nan")), "scale must be a positive"),
        (edited(arguments__more=1), "unexpected keyword argument 'more'"),
        (edited(arguments__feature_norm="group"), "feature_norm must be"),
        (edited(arguments__dtype={"dtype": "qint8"}), "not a specification: 'qint8'"),
        (edited(arguments__tasks={"tasks": [2**62]}), "the code is of .* the head of"),
        (
            edited(
                arguments__tasks={"tasks": [2, 2]},
                arguments__code__arguments={
                    "tasks": {"tasks": [2, 2]},
                    "columns": 3,
                    "cross_task": "independent",
                },
            ),
            "take 4 or 2",
        ),
        (edited(arguments__code="__import__('os')"), "not a specification"),
        (edited(arguments__orientation__arguments__in_features=10**12), "made for 10{12} features"),
        (
            edited(arguments__orientation__arguments__columns=10**12),
            "do not fit into in_features=8",
        ),
        (
            edited(
                arguments__orientation={
                    "class": "MatrixOrientation",
                    "arguments": {"matrix": {"shape": [10**9, 3], "dtype": "float32"}},
                }
            ),
            "not the specification of a head of 8 features",
        ),
        (
            edited(
                arguments__orientation={
                    "class": "MatrixOrientation",
                    "arguments": {"matrix": {"shape": [2**40, 2**40], "dtype": "float32"}},
                }
            ),
            "not a specification|not the specification|columns",
        ),
    ],
)
def test_hostile_specifications_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        from_spec(spec, 8)


@pytest.mark.parametrize("frame", [None, "x", [], [[1.0]], [[0.0] * 4] * 4])
def test_a_damaged_fingerprint_is_refused(frame):
    with pytest.raises(ValueError, match=r"damaged|not those that were saved"):
        check_frame(ETFHead(8, 3), {"frame": frame})


def test_fixed_heads_are_made_from_their_parts():
    parts = ETFHead(8, 3).arguments()
    assert type(FixedHead.from_arguments(**parts)) is FixedHead


def test_the_order_of_tasks_is_part_of_a_head():
    one, other = (to_spec(CompoundETFHead(8, dict.fromkeys(names, 3))) for names in ("ab", "ba"))
    assert not same_head(one, other)
