"""Runs that are killed, with no warning, at moments that nobody chose."""

import time
from dataclasses import replace
from random import Random

import pytest
from recipe_runs import KILLED, free_port, metrics, run, start, weights

pytestmark = pytest.mark.recipes

EVERY_STEP = {"checkpoint_every": 1}
KINDS = {
    "dropout": ({}, 1, 16),
    "a checkpoint after every step": (EVERY_STEP, 1, 16),
    "a head that observes": ({"head": "nearest"} | EVERY_STEP, 1, 16),
    "a weighting with a state": ({"weighting": "famo"} | EVERY_STEP, 1, 16),
    "two processes": (EVERY_STEP, 2, 8),
}
"""Settings, number of processes, and how often they are killed at least."""


class Killer:
    """Kills runs at random, and counts the kills."""

    def __init__(self, seed):
        self.random = Random(seed)  # noqa: S311  (no secret)
        self.kills = 0

    def survive(self, config, life, processes=1, kills=4):
        """Kill a run again and again, its last time included, then let it end."""
        done = config.run_dir / "result.json"
        for _ in range(kills):
            if not self._kill(config, self.random.uniform(0, life), processes):
                assert done.exists()
                return
            self.kills += 1
        assert run(config, processes=processes) == [0] * processes

    def _kill(self, config, seconds, processes):
        """Whether there was still something to kill."""
        port = free_port() if processes > 1 else 0
        group = [start(config, None, rank, processes, port) for rank in range(processes)]
        self.random.shuffle(group)
        group[0].join(seconds)
        for process in group:  # what waits for a dead process dies too, as under a launcher
            process.kill()
        for process in group:
            process.join()
        codes = {process.exitcode for process in group}
        assert codes <= {0, KILLED}
        return KILLED in codes and not (config.run_dir / "result.json").exists()


def unbroken(straight, settings, processes, output):
    """A run of these settings that ran through, and the seconds that it took."""
    config = replace(straight, **settings, output=output)
    begin = time.perf_counter()
    assert run(config, processes=processes) == [0] * processes
    return config, time.perf_counter() - begin


def assert_same(config, whole):
    assert metrics(config.run_dir) == metrics(whole.run_dir)
    assert weights(config.run_dir) == weights(whole.run_dir)


def test_killed_four_times_at_random_ends_as_if_it_had_not_been(straight, tmp_path):
    killer = Killer(seed=1)
    whole, life = unbroken(straight, EVERY_STEP, 1, tmp_path / "whole")
    while killer.kills < 4:
        config = replace(whole, output=tmp_path / f"killed{killer.kills}", resume=True)
        killer.survive(config, 0.7 * life, kills=4 - killer.kills)
        assert_same(config, whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_many_times_at_random_ends_as_if_it_had_not_been(kind, straight, tmp_path):
    killer, runs = Killer(seed=f"many, {kind}"), 0
    settings, processes, least = KINDS[kind]
    whole, life = unbroken(straight, settings, processes, tmp_path / "whole")
    while killer.kills < least:
        config = replace(whole, output=tmp_path / f"killed{runs}", resume=True)
        killer.survive(config, life, processes, kills=killer.random.randint(1, 6))
        assert_same(config, whole)
        runs += 1
