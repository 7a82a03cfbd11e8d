"""Runs in sessions: the buffer, the loop, its measurements, resuming, the command."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from recipes import replay
from recipes.data import load_data
from recipes.records import from_json
from recipes.rehearsal import sessions
from recipes.rehearsal.report import rows_table, verdict
from recipes.rehearsal.sessions import learn, make_network, seen_until, train_session
from recipes.rehearsal.settings import HEADS, SessionsRun
from recipes.rehearsal.summary import Summary, summarise_rows
from recipes.storage import read_json
from recipes.training.history import Epoch, Scores
from tests.html_page import Page

pytestmark = pytest.mark.recipes


def tiny(tmp_path, **settings):
    start = SessionsRun(epochs=2, hidden=32, features=16, output=tmp_path / "run", resume=True)
    return replace(start, **settings)


def digits():
    return load_data("digits", SessionsRun().data_options)


@pytest.mark.parametrize(("share", "each"), [(0.0, 0), (0.005, 1), (0.02, 2), (0.1, 12), (0.5, 60)])
def test_the_buffer_has_so_many_images_of_each_earlier_class(share, each):
    data = digits()
    seen = seen_until(SessionsRun(buffer=share), data, 2)
    labels = seen.train.labels[:, 0]
    assert labels.unique().tolist() == seen.test.labels.unique().tolist() == list(range(6))
    assert (seen.count, list(seen.current)) == (6, [4, 5])
    kept = labels[seen.buffer].bincount(minlength=6)
    assert (kept[:4] - each).abs().max() <= (1 if each == 60 else 0)  # 119 to 122 images a class
    assert kept[4:].tolist() == [0, 0]
    assert len(seen.buffer.unique()) == len(seen.buffer)


def test_the_buffer_depends_on_the_seed_alone_and_grows():
    def images(session=3, **settings):
        seen = seen_until(SessionsRun(**settings), digits(), session)
        return {image.numpy().tobytes() for image in seen.train.images[seen.buffer]}

    small = images(buffer=0.02)
    assert small < images(buffer=0.1)
    assert images(buffer=0.02, session=2) < small
    assert images(buffer=0.02, head="etf") == small
    assert images(buffer=0.02, seed=1) != small


def test_heads_of_a_seed_start_from_one_backbone():
    networks = {head: make_network(SessionsRun(head=head), digits()) for head in HEADS}
    first = networks["learned"].backbone.state_dict()
    for network in networks.values():
        assert all(torch.equal(v, first[k]) for k, v in network.backbone.state_dict().items())
    norms = {head: n.head.weight.norm(dim=1) for head, n in networks.items()}
    for head, length in {
        "cosine": 1,
        "random-rows": 1,
        "etf": 1,
        "etf-4": 4,
        "etf-plain": 1,
    }.items():
        assert norms[head].tolist() == pytest.approx([length] * 10)
    assert {head for head, n in networks.items() if n.head.norm is None} == {"learned", "etf-plain"}
    with_bias = {head for head, n in networks.items() if n.head.bias is not None}
    assert with_bias == {"learned", "learned-norm"}
    turned = [
        make_network(SessionsRun(head="etf-random", seed=seed), digits()).head.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(turned[0], turned[1])
    assert not torch.equal(turned[0], turned[2])
    other = make_network(SessionsRun(seed=1), digits()).backbone.state_dict()
    assert not torch.equal(other["1.weight"], first["1.weight"])


@pytest.mark.parametrize("head", HEADS)
def test_class_vectors_learn_only_in_their_session(head, tmp_path):
    run = tiny(tmp_path, head=head, weight_decay=0.0)
    network = make_network(run, digits())
    before = network.head.weight.detach().clone()
    losses = list(train_session(network, run, seen_until(run, digits(), 1)))
    assert len(losses) == run.epochs
    moved = (network.head.weight.detach() - before).abs().amax(1) > 1e-6
    learns = head in ("learned", "learned-norm", "no-bias", "cosine")
    assert moved.tolist() == [learns] * 4 + [False] * 6


def test_each_step_takes_as_many_replayed_images_as_new_ones(tmp_path, monkeypatch):
    run = tiny(tmp_path, buffer=0.1, epochs=1)
    seen = seen_until(run, digits(), 1)
    network, taken = make_network(run, digits()), []

    def cross_entropy(logits, labels):
        taken.append((logits.shape, labels))
        return (0 * logits).sum()

    monkeypatch.setattr(sessions.F, "cross_entropy", cross_entropy)
    list(train_session(network, run, seen))
    for shape, labels in taken:
        assert shape == (len(labels), 4)
        assert int((labels >= 2).sum()) * 2 == len(labels) <= 2 * run.batch_size
    new = torch.cat([labels[: len(labels) // 2] for _, labels in taken])
    expected = seen.train.labels[seen.train.labels >= 2]
    assert new.sort().values.tolist() == expected.sort().values.tolist()


def test_measurements_agree_with_numpy(tmp_path):
    run = tiny(tmp_path, buffer=0.1, head="etf", epochs=6)
    result, data = learn(run), digits()
    network = make_network(run, data)
    network.load_state_dict(load_file(run.run_dir / "model.safetensors"))
    network.eval()
    with torch.no_grad():
        (x, z), (xt, zt) = (network.features_and_logits(p.images) for p in (data.train, data.test))
    y, yt = data.train.labels[:, 0].numpy(), data.test.labels[:, 0].numpy()
    assert len(result.history) == 5
    last = result.history[-1]
    for scores, logits, labels in ((last.train, z, y), (last.test, zt, yt)):
        right = logits["digit"].argmax(1).numpy() == labels
        expected = {str(s + 1): right[labels // 2 == s].mean() for s in range(5)}
        assert scores.accuracy == pytest.approx(expected)
    scale = StandardScaler().fit(x.double().numpy())
    probe = LogisticRegression(max_iter=5_000).fit(scale.transform(x.double().numpy()), y)
    right = probe.predict(scale.transform(xt.double().numpy())) == yt
    found = [last.collapse[f"probe {s + 1}"] for s in range(5)]
    assert found == pytest.approx([right[yt // 2 == s].mean() for s in range(5)], abs=0.01)
    matrix = [list(row.test.accuracy.values()) for row in result.history]
    assert [len(row) for row in matrix] == [1, 2, 3, 4, 5]
    shallow = np.mean([matrix[j][j] - matrix[4][j] for j in range(4)])
    assert last.collapse["shallow"] == pytest.approx(shallow)
    buffer = seen_until(run, data, 4).buffer.numpy()
    x, means = x.double().numpy(), [x.double().numpy()[y == k].mean(0) for k in range(10)]
    centre = np.mean(means, axis=0)
    kept = [x[buffer[y[buffer] == k]].mean(0) for k in range(8)]
    inflation = [
        np.linalg.norm(b - centre) / np.linalg.norm(m - centre)
        for b, m in zip(kept, means, strict=False)
    ]
    assert last.collapse["inflation"] == pytest.approx(np.mean(inflation), rel=1e-5)
    assert 0 < last.collapse["effective_rank_ratio"] <= 1.5


def test_without_a_buffer_nothing_is_distorted_but_the_span_is_known(tmp_path):
    first, *_, last = learn(tiny(tmp_path, buffer=0.0)).history
    assert set(first.collapse) == {"probe 1"}
    assert last.collapse["inflation"] is None
    assert last.collapse["effective_rank_ratio"] is None
    assert 0 < last.collapse["old_mean_share"] <= 1
    assert last.test.accuracy["5"] > 0.8 > 2 * last.test.mean_accuracy


def numbers(result):
    return [replace(row, train_seconds=0.0) for row in result.history]


@pytest.mark.parametrize("head", ["learned-norm", "random-rows"])
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(head, tmp_path, monkeypatch):
    whole = learn(tiny(tmp_path, head=head, output=tmp_path / "whole"))
    run, trained = tiny(tmp_path, head=head), []

    def killed(network, run, seen):
        trained.append(seen.count)
        if trained == [2, 4, 6]:
            raise KeyboardInterrupt
        yield from train_session(network, run, seen)

    monkeypatch.setattr(sessions, "train_session", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(run)
    assert not (run.run_dir / "result.json").exists()
    again = learn(run)
    assert trained == [2, 4, 6, 6, 8, 10]
    assert numbers(again) == numbers(whole)
    ends = [load_file(tmp_path / place / "model.safetensors") for place in ("whole", "run")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert learn(run) == again  # read, not trained
    assert len(trained) == 6


def test_runs_of_other_settings_and_damaged_files(tmp_path):
    run = tiny(tmp_path)
    result = learn(run)
    with pytest.raises(FileExistsError, match="--resume"):
        learn(replace(run, resume=False))
    with pytest.raises(ValueError, match=r"other settings \(epochs: 2 -> 3\)"):
        learn(replace(run, epochs=3))
    (run.run_dir / "result.json").unlink()
    weights = run.run_dir / "model.safetensors"
    for damage in (
        lambda: weights.write_bytes(weights.read_bytes()[:500]),
        lambda: save_file({"a": torch.zeros(1)}, weights, metadata={"history": "[]"}),
        lambda: save_file(load_file(weights), weights, metadata={"history": "[{}]"}),
    ):
        damage()
        with pytest.warns(UserWarning, match="is damaged .* starts again"):
            again = learn(run)
        assert numbers(again) == numbers(result)
        (run.run_dir / "result.json").unlink()


def test_a_run_that_diverges_stops(tmp_path):
    run = tiny(tmp_path, head="learned", lr=1e20)
    with pytest.raises(FloatingPointError, match="session 1, at the learning rate 1e"):
        learn(run)
    assert not (run.run_dir / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer": 1.5}, "buffer=1.5: a share"),
        ({"buffer": math.nan}, "buffer=nan: a share"),
        ({"head": "compound"}, "head='compound': choose from learned, learned-norm"),
        ({"epochs": 0}, "epochs=0: at least 1"),
        ({"classes": 1}, "classes=1: at least 2"),
        ({"lr": 0.0}, "lr=0.0: must be above 0"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ValueError, match=message):
        SessionsRun(**settings)


def test_sessions_share_the_classes_evenly(tmp_path):
    with pytest.raises(ValueError, match="classes=4: digits has 10"):
        learn(tiny(tmp_path, classes=4))
    assert not (tmp_path / "run").exists()


def history(accuracy, **measures):
    scores = Scores(10, 0.1, {"1": accuracy, "2": accuracy})
    return [Epoch(1, 1.0, scores, scores, {}), Epoch(2, 2.0, scores, scores, measures)]


def test_heads_are_compared_with_the_first_of_their_buffer_seed_by_seed():
    def of(*accuracies):
        return [history(a, shallow=1 - a, deep=None) for a in accuracies]

    runs = {
        ("a", 0.1): of(0.5, 0.7),
        ("b", 0.1): of(0.6, 0.8),
        ("a", 0.5): of(0.9, 0.9),
        ("b", 0.5): of(0.9, 0.8),
    }
    rows = summarise_rows(runs)
    assert [row.ahead is None for row in rows] == [True, False, True, False]
    assert (rows[1].ahead.mean, rows[1].ahead.half) == pytest.approx((0.1, 0.0))
    assert rows[0].measures["shallow"].mean == pytest.approx(0.4)
    assert rows[0].measures["deep"] is rows[0].measures["inflation"] is None
    assert verdict(rows, 2).startswith("b is ahead of a with buffers of 10.0%. (n = 2 seeds")
    assert verdict(rows[:1], 2).startswith("Only a was trained.")
    assert len({len(line) for line in rows_table(rows)}) == 1


def test_the_command_trains_once_and_writes_table_and_page(tmp_path, monkeypatch, capsys):
    arguments = ["replay.py", "--heads", "learned-norm", "etf", "--buffers", "0", "0.02"]
    arguments += ["--epochs", "1", "--seeds", "0", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    replay.main()
    said = capsys.readouterr().out
    assert "etf, 2.0%" in said
    summary = from_json(Summary, read_json(tmp_path / "digits.json"))
    assert [(row.head, row.buffer) for row in summary.rows] == [
        ("learned-norm", 0.0),
        ("etf", 0.0),
        ("learned-norm", 0.02),
        ("etf", 0.02),
    ]
    page = Page()
    page.feed((tmp_path / "digits.html").read_text("utf-8"))
    assert page.is_self_contained()
    assert "svg" in page.tags
    before = json.loads((tmp_path / "digits.json").read_text("utf-8"))
    monkeypatch.setattr(sessions, "train_session", None)  # trains nothing
    replay.main()
    assert json.loads((tmp_path / "digits.json").read_text("utf-8")) == before


def test_missing_data_says_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["replay.py", "mnist", "--root", str(tmp_path / "none")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="--download"):
        replay.main()
