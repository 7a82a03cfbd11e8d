import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.command import command
from recipes.training.backbones import BACKBONES
from recipes.training.heads import HEADS
from recipes.training.presets import PRESETS, parse_config
from recipes.training.settings import RunConfig

pytestmark = pytest.mark.recipes
ROOT = Path(__file__).parents[3]


def test_command_line_overrides_the_preset():
    config = parse_config(
        RunConfig, ["multi-digits", "--head", "learned", "--epochs", "3", "--lr", "0.5"]
    )
    preset = PRESETS["multi-digits"][1]
    assert config == dataclasses.replace(preset, head="learned", epochs=3, lr=0.5)
    assert config.run_dir == Path("runs/multi-digits/learned-seed0")


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_config(RunConfig, ["multi-digits", "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(RunConfig):
        if field.name not in ("preset", "jobs"):  # which programs set
            assert f"--{field.name.replace('_', '-')}" in shown
    for name in (*HEADS, *BACKBONES):
        assert name in shown or name.startswith("cnn-")  # which tests add
    assert "falls to" in shown  # the docstring is what --help says


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "nope"], "compound-hadamard"),
        (["--lr", "0"], "lr=0.0: must be above 0"),
        (["--scale", "-1"], "scale=-1.0: must be above 0"),
        (["--weight-decay", "-1"], "weight_decay=-1.0: must not be negative"),
        (["--epochs", "-1"], "epochs=-1: at least 0 is needed"),
        (["--batch-size", "0"], "batch_size=0: at least 1 is needed"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_config(RunConfig, ["multi-digits", *arguments])
    assert exit_.value.code == 2
    shown = capsys.readouterr()
    assert message in " ".join((shown.out + shown.err).replace("│", " ").split())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_of_their_data_set_and_survive_json(name):
    preset = PRESETS[name][1]
    assert preset.preset == preset.data == name
    assert preset.differences(json.loads(json.dumps(preset.to_json()))) == []


def test_an_option_that_the_data_set_does_not_heed_is_refused_at_once():
    with pytest.raises(ValueError, match="download=True: multi-digits has no use for it"):
        dataclasses.replace(PRESETS["multi-digits"][1], download=True)


def test_json_round_trip_has_no_differences(tmp_path):
    config = dataclasses.replace(PRESETS["multi-digits"][1], output=tmp_path, log_with=("a", "b"))
    saved = json.loads(json.dumps(config.to_json()))
    assert config.differences(saved) == []
    moved = dataclasses.replace(config, output=None, resume=True, checkpoint_every=5, log_with=())
    assert moved.differences(saved) == []
    assert dataclasses.replace(config, seed=3).differences(saved) == ["seed: 0 -> 3"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_setting_that_a_saved_run_lacks_had_its_default(name):
    preset = PRESETS[name][1]
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(preset)
        if field.default is not dataclasses.MISSING
    }
    assert len(defaults) > 20
    for setting, default in defaults.items():
        saved = json.loads(json.dumps(preset.to_json()))
        had = saved.pop(setting)
        same = json.loads(json.dumps(default, default=str)) == had
        assert (preset.differences(saved) == []) == same, setting
    saved = preset.to_json()
    del saved["weighting"]
    assert dataclasses.replace(preset, weighting="equal").differences(saved) == []


def test_a_setting_that_only_the_saved_run_has_is_a_difference():
    preset = PRESETS["multi-digits"][1]
    assert preset.differences(preset.to_json() | {"ema": 0.9}) == ["ema: 0.9 -> None"]


def test_train_script_shows_its_presets():
    done = subprocess.run(
        [sys.executable, "recipes/train.py", "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "multi-digits" in done.stdout


@pytest.mark.parametrize(
    "command",
    ["train multi-digits", "compare celeba", "convert celeba", "theory images", "paper"],
)
def test_help_needs_no_torch(command):
    name, *arguments = command.split()
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print(*{'torch', 'accelerate', 'timm'} & set(sys.modules)))\n"
        f"sys.argv = {[name, *arguments, '--help']}\n"
        f"runpy.run_path('recipes/{name}.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--output" in done.stdout
    assert not done.stdout.splitlines()[-1].strip()  # none of them was imported


def test_interruption_ends_in_one_line_that_names_resume(capsys, monkeypatch):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit, match="130"), command():
            raise KeyboardInterrupt
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == lines
        assert all("--resume goes on" in line for line in said)
