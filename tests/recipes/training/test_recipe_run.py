import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from recipe_runs import TINY
from safetensors.torch import load_file, load_model
from tensorboard.backend.event_processing import event_accumulator as reader

from recipes.data.digits import multi_digits
from recipes.storage import write_json
from recipes.training.building import build_network
from recipes.training.engine import train
from recipes.training.heads import HEADS
from recipes.training.measure import measure
from recipes.training.optimizer import optimizer_over
from recipes.training.processes import make_accelerator, tracker_scalars
from recipes.training.result import RunResult, class_cosines, counts

pytestmark = pytest.mark.recipes
ROOT = Path(__file__).parents[3]
SHORT = replace(TINY, epochs=1, checkpoint_every=0, width=2)


def flat(row):
    """The measured numbers of a record, by path."""
    return {
        f"{part}/{name}": value
        for part, scores in (("train", row.train), ("test", row.test))
        for name, value in {"samples": scores.samples, "loss": scores.loss, **scores.accuracy}.items()
    } | {f"collapse/{name}": value for name, value in row.collapse.items()}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    rows = []
    config = replace(SHORT, output=tmp_path_factory.mktemp("run"), head="learned-norm")
    result = train(config, on_epoch=rows.append)
    assert rows == result.history
    return result


def test_result_on_disk_is_the_one_returned(result):
    run_dir = Path(result.config["output"])
    assert RunResult.read(run_dir) == result
    assert json.loads((run_dir / "config.json").read_text()) == result.config


def test_history_has_a_record_before_training_and_one_an_epoch(result):
    assert [row.epoch for row in result.history] == [0, 1]
    before, after = result.history
    assert before.train_seconds == 0 < after.train_seconds
    assert before.train.samples == 10_000
    assert before.test.samples == 2_000
    assert list(before.test.accuracy) == ["left", "right"]
    assert after.train.loss < before.train.loss
    assert all(math.isfinite(value) for value in flat(after).values())


def test_counts_are_those_of_the_saved_weights(result):
    weights = Path(result.config["output"]) / "model.safetensors"
    network = build_network(replace(SHORT, head="learned-norm"), multi_digits())
    load_model(network, weights)
    assert result.counts.head_parameters == 20 * 20 + 20
    assert result.counts.model_parameters == sum(p.numel() for p in network.parameters())
    assert result.counts.checkpoint_bytes == sum(v.nbytes for v in load_file(weights).values())
    moments = 2 * 4 * result.counts.model_parameters
    steps = 4 * len(list(network.parameters()))
    assert result.counts.optimizer_state_bytes == moments + steps


def test_gram_holds_the_cosines_of_centred_class_vectors(result):
    weights = load_file(Path(result.config["output"]) / "model.safetensors")
    left = weights["head.weight"][:10]
    left = left - left.mean(0)
    expected = torch.nn.functional.cosine_similarity(left[2], left[7], dim=0).item()
    assert result.tasks == {"left": 10, "right": 10}
    assert len(result.gram) == len(result.gram[0]) == 20
    assert result.gram[2][7] == pytest.approx(expected, abs=1e-4)
    assert class_cosines(torch.randn(201, 300), {"all": 201}) is None


def test_provenance_names_code_machine_and_libraries(result):
    provenance = result.provenance
    assert provenance.processes == 1
    assert provenance.mixed_precision == "no"
    assert provenance.packages["torch"] == torch.__version__.partition("+")[0]
    assert provenance.device
    assert provenance.date


@pytest.mark.parametrize("name", HEADS)
def test_every_head_trains_and_a_fixed_one_learns_nothing(name):
    data = multi_digits()
    torch.manual_seed(0)
    network = build_network(replace(SHORT, head=name), data)
    features, logits = network.features_and_logits(data.train.images[:100])
    dense = features @ network.head.weight.mT
    if network.head.bias is not None:
        dense = dense + network.head.bias
    torch.testing.assert_close(torch.cat(list(logits.values()), 1), dense)
    sum(z.logsumexp(1).sum() for z in logits.values()).backward()
    assert all(p.grad is not None for p in network.parameters())
    if name.startswith("compound"):
        assert not list(network.head.parameters())


def test_bfloat16_accumulation_and_a_tracker_together(tmp_path):

    config = replace(SHORT, output=tmp_path / "run", log_with=("tensorboard",))
    options = "--mixed-precision bf16 --gradient-accumulation 5 --log-with tensorboard"
    done = launch([sys.executable, "recipes/train.py"], config, *options.split())
    assert done.returncode == 0, done.stderr
    result = RunResult.read(config.run_dir)
    assert result.provenance.mixed_precision == "bf16"
    assert result.history[1].train.loss < result.history[0].train.loss
    events = reader.EventAccumulator(str(config.run_dir / "etf_heads")).Reload()
    logged = {event.step: event.value for event in events.Scalars("test/loss")}
    assert logged == pytest.approx({row.epoch: row.test.loss for row in result.history})


def launch(command, config, *options, **variables):
    """Run the training script as a user would, with the settings of ``SHORT``."""
    arguments = ["multi-digits", "--output", str(config.run_dir), "--head", config.head]
    for name in ("width", "features", "batch-size", "epochs"):
        arguments += [f"--{name}", str(getattr(config, name.replace("-", "_")))]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    environment |= variables
    return subprocess.run(
        [*command, *arguments, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,  # gloo's teardown may abort after everything is written: see the result
    )


def test_two_processes_measure_what_one_measures(result, tmp_path):
    config = replace(SHORT, output=tmp_path / "run", head="learned-norm")
    launcher = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    launcher += "--mixed_precision no --dynamo_backend no recipes/train.py"
    done = launch([sys.executable, *launcher.split()], config)
    assert (config.run_dir / "result.json").exists(), done.stderr
    two = RunResult.read(config.run_dir)
    assert two.provenance.processes == 2

    # The same untrained network, measured by one process and by two.
    assert flat(two.history[0]) == pytest.approx(flat(result.history[0]), rel=1e-4)

    # The network that two processes trained, measured by one.
    data = multi_digits()
    network = build_network(config, data)
    load_model(network, config.run_dir / "model.safetensors")
    one = measure(make_accelerator(config), network, data)
    assert flat(two.history[-1]) == pytest.approx(flat(one), rel=1e-4)
    assert two.history[-1].train.samples == 10_000
    assert two.history[-1].test.samples == 2_000


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path):
    """Each would write what the other writes."""
    config = replace(SHORT, output=tmp_path / "run")
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2 recipes/train.py"
    done = launch([sys.executable, *launcher.split()], config, ACCELERATE_USE_CPU="false")
    assert "error: 2 processes were launched" in done.stderr
    assert "set ACCELERATE_USE_CPU=true" in done.stderr
    assert not config.run_dir.exists()


def test_what_is_not_defined_is_null(tmp_path):
    config = replace(SHORT, output=tmp_path / "run", head="class-mean")
    result = train(config)
    assert RunResult.read(config.run_dir) == result
    text = (config.run_dir / "result.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # called for NaN and infinities only
    start, end = (row.collapse for row in result.history)
    assert start["s_nc4"] is None  # all class vectors are zero
    assert all(math.isfinite(value) for value in end.values())
    assert tracker_scalars({"collapse": start}).keys() == {
        f"collapse/{name}" for name, value in start.items() if value is not None
    }


def test_json_refuses_what_it_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert not (tmp_path / "a.json").exists()


def test_settings_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    uneven = replace(SHORT, batch_size=501, gradient_accumulation=2, output=tmp_path / "a")
    with pytest.raises(ValueError, match="choose a multiple of 2"):
        train(uneven)
    with pytest.raises(ValueError, match="there are 10000 training images only"):
        train(replace(SHORT, batch_size=10_001, output=tmp_path / "b"))
    with pytest.raises(ValueError, match="in_features=17 is too small"):
        train(replace(SHORT, features=17, output=tmp_path / "c"))
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="log_with: nonesuch cannot be used here; installed: "):
        train(replace(SHORT, log_with=("nonesuch",), output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_no_epochs_measure_the_untrained_network(tmp_path):
    result = train(replace(SHORT, epochs=0, output=tmp_path / "run"))
    assert [row.epoch for row in result.history] == [0]
    assert load_file(tmp_path / "run" / "model.safetensors")


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("sgd", 1)])
def test_counts_are_those_of_the_optimizer_that_trained(optimizer, moments):
    settings = replace(SHORT, optimizer=optimizer, head="compound")
    network = build_network(settings, multi_digits())
    found = counts(network, partial(optimizer_over, settings=settings))
    parameters = list(network.parameters())
    steps = 4 * len(parameters) if optimizer == "adamw" else 0
    assert found["optimizer_state_bytes"] == moments * sum(p.nbytes for p in parameters) + steps
    assert found["head_parameters"] == 0
