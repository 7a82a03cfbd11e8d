"""A model with fixed heads comes back from its file as it was, or not at all."""

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from etf_heads import ETFHead, NearestETFHead, replace_head
from etf_heads.surgery import HeadAdapter, load_model, save_model
from tests.cases import EVERY_HEAD, all_logits, orthonormal


def network(last=None, width=16, **options):
    last = nn.Linear(width, 5) if last is None else last
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), last).to(**options)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Sequential(nn.Conv2d(16, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        nn.Flatten(),
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("case", EVERY_HEAD, ids=str)
def test_every_head_comes_back_where_a_learned_layer_stood(case, path):
    head = case.make()
    body = nn.Linear(3, case.in_features, dtype=torch.float64)
    model = nn.Sequential(body, head)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim < 2:
                nn.init.uniform_(parameter, 0.5, 1.5)
        x = torch.randn(6, 3, dtype=torch.float64)
        model.train()(x)
        save_model(model, path)
        twin = nn.Sequential(
            nn.Linear(3, case.in_features), nn.Linear(case.in_features, head.out_features)
        ).double()
        assert load_model(twin, path) is twin
        assert repr(twin) == repr(model)
        assert torch.equal(all_logits(twin.eval()(x)), all_logits(model.eval()(x)))


@pytest.mark.parametrize(
    "given",
    [
        None,
        9,
        {"a": 3, "b": 4},
        [3, 4],
        lambda d: NearestETFHead(d, {"a": 3, "b": 4}),
        lambda d: ETFHead(d, 5, orientation=orthonormal(d, 5).float()),
    ],
)
@pytest.mark.parametrize(
    ("build", "at", "shape"),
    [(network, "2", (4, 8)), (convolutional, "1.0", (2, 3, 9, 9))],
)
def test_replaced_heads_come_back(build, at, shape, given, path):
    x = torch.randn(shape)
    model = replace_head(build(), given, at=at).eval()
    save_model(model, path)
    for twin in (build(), replace_head(build(), given, at=at)):
        load_model(twin.eval(), path)
        ours, theirs = model(x), twin(x)
        assert type(ours) is type(theirs)
        assert torch.equal(all_logits(ours), all_logits(theirs))
        assert repr(twin) == repr(model)


def test_tasks_come_back_inside_a_larger_model(path):
    model = nn.Sequential(replace_head(network(), {"a": 3, "b": 2}, at="2"), nn.Identity())
    save_model(model, path)
    twin = load_model(nn.Sequential(network(), nn.Identity()), path)
    x = torch.randn(4, 8)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    assert list(twin(x)) == ["a", "b"]


def test_class_counts_follow_on_loading(path):
    save_model(replace_head(network(), {"a": 3, "b": 4}, at="2"), path)
    twin = network()
    twin.num_classes = 5
    assert load_model(twin, path).num_classes == 7


def test_a_head_in_two_places_comes_back_as_one(path):
    def build():
        shared = nn.Linear(8, 8)
        return nn.Sequential(shared, nn.Tanh(), shared)

    model = replace_head(build(), at="0", bias=True, orientation=orthonormal(8, 8).float())
    nn.init.normal_(model[0].bias)
    save_model(model, path)
    twin = load_model(build(), path)
    assert twin[0] is twin[2]
    x = torch.randn(4, 8)
    assert torch.equal(twin(x), model(x))


def test_dtype_and_mode_are_those_of_the_model_at_hand(path):
    save_model(replace_head(network(), at="2", orientation="random:1", bias=True), path)
    twin = load_model(network(dtype=torch.bfloat16).eval(), path)
    assert twin[2].weight.dtype == torch.bfloat16
    assert not twin[2].training
    assert twin(torch.randn(4, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    wide = nn.Sequential(nn.Linear(8, 16), ETFHead(16, 5, orientation="random:1")).double()
    save_model(wide, path)
    twin = load_model(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5)).double(), path)
    assert torch.equal(twin[1].weight, wide[1].weight)


def test_models_without_fixed_heads_and_plain_readers(path):
    model = network()
    save_model(model, path)
    x = torch.randn(4, 8)
    assert torch.equal(load_model(network(), path)(x), model(x))
    safetensors.torch.load_model(network(), path)


def test_a_killed_save_leaves_the_former_file(path, monkeypatch):
    save_model(network(), path)
    before = path.read_bytes()

    def killed(_, filename, metadata):
        Path(filename).write_bytes(metadata["etf_heads"].encode()[:9])
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_model", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(network(), path)
    assert path.read_bytes() == before


def test_a_file_is_moved_into_place_and_not_written_over(path):
    save_model(network(), path)
    before, former = path.read_bytes(), path.with_name("former")
    former.hardlink_to(path)
    save_model(network(ETFHead(16, 5)), path)
    assert former.read_bytes() == before != path.read_bytes()
    assert {entry.name for entry in path.parent.iterdir()} == {"former", path.name}


def description(path):
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["etf_heads"])


def rewrite(path, edit=None, tensors=None, raw=None):
    """The same file with another specification or other tensors."""
    kept = safetensors.torch.load_file(path)
    spec = description(path)
    if edit is not None:
        edit(spec)
    text = json.dumps(spec) if raw is None else raw
    safetensors.torch.save_file(kept | (tensors or {}), path, metadata={"etf_heads": text})


def test_the_specification_is_json_in_the_header(path):
    save_model(replace_head(network(), {"a": 3, "b": 2}, at="2"), path)
    spec = description(path)
    assert spec["format"] == 1
    (place,) = spec["heads"]
    assert place["names"] == ["2"]
    assert place["head"]["class"] == "CompoundETFHead"
    assert spec["outputs"] == {"": {"tasks": {"a": 3, "b": 2}, "channels_first": False}}


def set_frame(spec):
    spec["heads"][0]["head"]["frame"][0][0] += 1e-3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.update(format=2), "its format is 2, this version reads 1"),
        (lambda s: s.pop("heads"), "cannot be used: 'heads'"),
        (lambda s: s.update(heads=5), "cannot be used: 'int' object is not iterable"),
        (lambda s: s["heads"][0].update(more=1), "cannot be used: .*unexpected keyword argument"),
        (lambda s: s["heads"][0].update(adapter="yes"), "adapter must be true, false or null"),
        (lambda s: s["heads"][0].update(names=[]), "names must be a list of strings"),
        (lambda s: s["heads"][0].update(names=[["2"]]), "names must be a list of strings"),
        (lambda s: s["heads"][0].update(names=["../../etc"]), r"head at '\.\./\.\./etc', whe"),
        (lambda s: s["heads"][0].update(names=["__class__"]), "head at '__class__', where"),
        (lambda s: s["heads"][0].update(names=["1"]), "at '1', where the model has ReLU"),
        (lambda s: s["heads"][0]["head"].update({"class": "system"}), "no class of this name"),
        (lambda s: s["outputs"].update({"gone": {"tasks": [2], "channels_first": 0}}), "no module"),
        (lambda s: s["outputs"].update({"": {"tasks": [1], "channels_first": 0}}), "at least 2"),
        (
            lambda s: s["heads"][0]["head"]["arguments"].update(bias=True),
            "the fixed head at '2': the file has no '2.bias'",
        ),
    ],
)
def test_hostile_specifications_are_refused_and_change_nothing(edit, message, path):
    save_model(replace_head(network(), at="2"), path)
    rewrite(path, edit)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_model(model, path)
    assert type(model[2]) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("raw", ["", "{", "[]", "null", "[" * 100_000, '{"format": 1}'])
def test_broken_json_is_refused(raw, path):
    save_model(replace_head(network(), at="2"), path)
    rewrite(path, raw=raw)
    with pytest.raises(ValueError, match="says of its heads cannot be used"):
        load_model(network(), path)


def test_sizes_that_the_file_does_not_have_are_refused_before_memory_is_taken(path):
    save_model(network(NearestETFHead(16, 5)), path)

    def enormous(spec):
        spec["heads"][0]["head"]["class"] = "ClassMeanHead"
        arguments = spec["heads"][0]["head"]["arguments"]
        arguments["tasks_or_classes"] = 10**11
        del arguments["solver"], arguments["proximal"]

    rewrite(path, enormous, {"2.vectors": torch.zeros(5, 16)})
    with pytest.raises(ValueError, match=r"has shape \(5, 16\), expected \(100000000000, 16\)"):
        load_model(network(), path)


def test_tampering_with_what_a_head_stores_is_noticed(path):
    save_model(network(ETFHead(16, 5, orientation=orthonormal(16, 5).float())), path)
    rewrite(path, tensors={"2.orientation.basis": orthonormal(16, 5, 1).float().contiguous()})
    with pytest.raises(ValueError, match="not those that were saved"):
        load_model(network(), path)
    save_model(replace_head(network(), at="2"), path)
    rewrite(path, set_frame)
    with pytest.raises(ValueError, match="not those that were saved"):
        load_model(network(), path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: network(ETFHead(16, 5, orientation="random:2")),
            r"another fixed head at '2' than the file: .*RandomOrientation.*library builds it",
        ),
        (lambda: network(ETFHead(16, 6)), "another fixed head at '2' than the file"),
        (lambda: network(HeadAdapter(ETFHead(16, 5))), "another fixed head at '2' than the file"),
        (lambda: network(width=17), "the fixed head at '2': made for 16 features, there are 17"),
        (lambda: network(nn.Identity()), "at '2', where the model has Identity"),
        (lambda: network()[:2], "at '2', where the model has None"),
        (lambda: network(device="meta"), "model is on the meta device: call model.to_empty"),
        (
            lambda: nn.Sequential(*network(), nn.Linear(5, 5)),
            r"has the weights of another model: .*\n.*Missing key.*3\.bias",
        ),
        (
            lambda: nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 5)),
            "has the weights of another model: .*\n.*size mismatch for 0.weight",
        ),
        (lambda: nn.Sequential(*network(), ETFHead(5, 5)), "a fixed head at '3', .* has none"),
    ],
)
def test_another_model_is_refused(model, message, path):
    save_model(network(ETFHead(16, 5)), path)
    with pytest.raises(ValueError, match=message):
        load_model(model(), path)


def test_other_files_are_refused(path):
    safetensors.torch.save_model(network(), path)
    with pytest.raises(ValueError, match="does not say what fixed heads it has: it was not writ"):
        load_model(network(), path)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_model(network(), path)
    with pytest.raises(FileNotFoundError):
        load_model(network(), path.with_name("gone"))


def test_a_normalisation_of_ones_own(path):
    def own():
        return network(ETFHead(16, 5, feature_norm=nn.BatchNorm1d(16)))

    model = own()
    model(torch.randn(8, 8))
    save_model(model, path)
    with pytest.raises(ValueError, match=r"fixed head at '2': .*put it in place before loading"):
        load_model(network(), path)
    x = torch.randn(4, 8)
    assert torch.equal(load_model(own(), path).eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    ],
)
def test_wrappers_leave_no_trace_in_the_file(wrap, path):
    model = replace_head(network(), at="2").eval()
    save_model(wrap(model), path)
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
    x = torch.randn(4, 8)
    assert torch.equal(load_model(network().eval(), path)(x), model(x))
    wrapper = wrap(network().eval())
    assert load_model(wrapper, path) is wrapper
    assert torch.equal(wrapper(x), model(x))


def test_distributed_wrapper_leaves_no_trace_in_the_file(path, tmp_path):
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = replace_head(network(), at="2")
        save_model(nn.parallel.DistributedDataParallel(model), path)
    finally:
        torch.distributed.destroy_process_group()
    x = torch.randn(4, 8)
    assert torch.equal(load_model(network(), path)(x), model(x))


def test_a_head_alone_is_no_model(path):
    with pytest.raises(ValueError, match="model is a head itself"):
        save_model(ETFHead(8, 3), path)
