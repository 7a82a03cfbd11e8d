"""A model file that an enemy made is refused at once, runs nothing, and takes no memory."""

import json
import pickle
import resource
import struct
import time

import pytest
import safetensors.torch
import torch
from torch import nn

from etf_heads import ETFHead
from etf_heads.surgery import load_model, save_model
from tests.hostile import SECONDS, Bomb

HUGE = 10**15
MEGABYTES = 200


def raw(header, data=b""):
    """The bytes of a safetensors file with this header, and whatever data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape, begin=0, end=4, dtype="F32"):
    return {"2.weight": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


FILES = {
    "empty": b"",
    "shorter than its length": b"\x01",
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header of 99 million bytes that is not there": struct.pack("<Q", 99_000_000) + b"{}",
    "a header that is no JSON": raw(b"{" * 50),
    "a header that is no text": raw(b"\xff\xfe" * 20),
    "a header nested deeply": raw(b'{"a":' * 100_000),
    "a header that is a list": raw([]),
    "an enormous shape": raw(tensor([HUGE, HUGE]), b"\0" * 4),
    "an enormous shape of an enormous file": raw(tensor([HUGE], 0, 4 * HUGE)),
    "a shape whose size overflows": raw(tensor([2**32, 2**32, 2]), b"\0" * 4),
    "a negative shape": raw(tensor([-1]), b"\0" * 4),
    "offsets outside the file": raw(tensor([1], 4, 8), b"\0" * 4),
    "offsets that run backwards": raw(tensor([1], 4, 0), b"\0" * 4),
    "an unknown dtype": raw(tensor([1], dtype="O8"), b"\0" * 4),
    "overlapping tensors": raw(tensor([1]) | {"b": tensor([1])["2.weight"]}, b"\0" * 4),
    "metadata that is no text": raw({"__metadata__": {"etf_heads": {"format": 1}}}),
    "a pickle": pickle.dumps({"weight": 1}),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def network(last=None):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5) if last is None else last)


def refuse(path, message="no safetensors file"):
    """Loading raises a ValueError, quickly, with no memory taken and the model as it was."""
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message):
        load_model(model, path)
    assert time.process_time() - start < SECONDS
    # Kilobytes; the most that this process ever had.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEGABYTES << 10
    assert type(model[2]) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_models(name, path):
    path.write_bytes(FILES[name])
    refuse(path)


@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_a_pickle_in_place_of_a_model_is_not_unpickled(protocol, path, tmp_path):
    bomb = Bomb(tmp_path / "exploded")
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, path)
    refuse(path)
    assert not (tmp_path / "exploded").exists()
    with path.open("rb") as file:  # it would have
        if protocol == "pickle":
            pickle.load(file)  # noqa: S301
        else:
            torch.load(file, weights_only=False)
    assert (tmp_path / "exploded").exists()


def header(tmp_path):
    """What a good file says of its heads, and its tensors."""
    path = tmp_path / "good.safetensors"
    save_model(network(ETFHead(16, 5)), path)
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["etf_heads"]), safetensors.torch.load_file(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s["heads"].extend(s["heads"] * 5_000), "two heads at '2'"),
        (lambda s: s["heads"][0].update(names=["2"] * 5_000), "two heads at '2'"),
        (lambda s: s["heads"][0].update(names=["2." * 5000]), "where the model has None"),
        (lambda s: s["heads"][0].update(names=["../../etc/passwd"]), "where the model has None"),
        (lambda s: s["heads"][0]["head"]["arguments"].update(tasks=[HUGE]), "not a specification"),
        (
            lambda s: s["heads"][0]["head"]["arguments"].update(tasks={"tasks": [HUGE]}),
            "fixed head at '2'",
        ),
        (
            lambda s: s["heads"][0]["head"]["arguments"]["orientation"]["arguments"].update(
                in_features=HUGE
            ),
            f"made for {HUGE} features, there are 16",
        ),
        (
            lambda s: s["heads"][0]["head"]["arguments"]["orientation"]["arguments"].update(
                columns=HUGE
            ),
            f"{HUGE} orthonormal columns do not fit",
        ),
        (lambda s: s["outputs"].update({"../x": {"tasks": [2], "channels_first": 0}}), "no module"),
        (lambda s: s.update(format=float("nan")), "its format is nan"),
    ],
)
def test_hostile_specifications(edit, message, path, tmp_path):
    spec, tensors = header(tmp_path)
    edit(spec)
    safetensors.torch.save_file(tensors, path, metadata={"etf_heads": json.dumps(spec)})
    refuse(path, message)
