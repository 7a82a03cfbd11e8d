"""Train what a claim asks for, and gather what its judgement needs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recipes.claims.claim import Claim, Judged, Plan, Variant
from recipes.claims.record import Record
from recipes.claims.request import Request
from recipes.comparison.tuning import Tuned, tune
from recipes.data import DATASETS, load_data
from recipes.records import to_json
from recipes.storage import read_json, write_json
from recipes.training.jobs import train_all
from recipes.training.presets import PRESETS
from recipes.training.processes import process_state
from recipes.training.result import RunResult, trained_network
from recipes.training.settings import TRIAL_SEED, RunConfig

EXAMINED = "examined.json"


def gather(claim: Claim, request: Request) -> Judged:
    """Run a claim's plan, or read what of it has been run, and judge it.

    Every process of a launch calls this. Runs go seed by seed, so that a break leaves whole
    comparisons; finished ones are not run again.
    """
    plan, place = claim.plans[request.size], request.output / claim.name / request.size
    runs = [
        (
            name,
            variant.run,
            _config(plan, variant, directory(place, f"{name}-seed{seed}"), seed, request),
        )
        for seed in request.seeds or plan.seeds
        for name, variant in plan.variants.items()
    ]
    tuned = _tuned(plan, place, request)
    runs = [(name, train, replace(config, **tuned[name].settings)) for name, train, config in runs]
    results = train_all([(train, config) for _, train, config in runs], request.jobs)
    evidence: dict[str, list[Record]] = {name: [] for name in plan.variants}
    for (name, _, config), result in zip(runs, results, strict=True):
        evidence[name].append(_record(claim, config, result, tuned[name]))
    criteria = list(claim.judge(evidence))
    return Judged(claim.name, request.size, evidence, criteria, results[0].provenance)


def _tuned(plan: Plan, place: Path, request: Request) -> dict[str, Tuned]:
    """The settings of each variant that equal tuning found best; none where there is no tuning."""
    searches = {
        name: (
            partial(tune, trials=plan.trials, train=variant.run),
            _config(plan, variant, directory(place, f"{name}-tuning"), TRIAL_SEED, request),
        )
        for name, variant in plan.variants.items()
        if plan.trials and variant.tuned
    }
    found = train_all(list(searches.values()), request.jobs) if searches else []
    return dict.fromkeys(plan.variants, Tuned((), {})) | dict(zip(searches, found, strict=True))


def directory(place: Path, name: str) -> Path:
    """Where the runs of a variant are: a name that every system takes, or as it was before that."""
    former = place / name
    return former if former.exists() else place / re.sub(r'[<>:"/\\|?*]', "", name)


def _config(plan: Plan, variant: Variant, output: Path, seed: int, request: Request) -> RunConfig:
    start = PRESETS[plan.preset][1]
    settings = {**plan.base, **variant.settings, "seed": seed, "output": output}
    if request.epochs is not None:
        settings["epochs"] = request.epochs
    if "root" in DATASETS[settings.get("data", start.data)].options:
        settings |= {"root": request.root, "download": request.download}
    return replace(start, **settings, resume=True, jobs=request.jobs)


def _record(claim: Claim, config: RunConfig, result: RunResult, tuned: Tuned) -> Record:
    return Record(
        seed=config.seed,
        history=result.history,
        tasks=result.tasks,
        # Large, and nothing to a claim that measures no collapse.
        gram=result.gram if claim.measures else None,
        counts=result.counts,
        settings=result.config,
        extra=_examined(claim, config, result),
        tuned=tuned.trials,
    )


def _examined(claim: Claim, config: RunConfig, result: RunResult) -> Any:
    """The result of the claim's examination, computed once: it may take a while."""
    state, file = process_state(), config.run_dir / EXAMINED
    if claim.examine is None:
        return None
    if state.is_main_process and not file.exists():
        data = load_data(config.data, config)
        found = claim.examine(trained_network(config, data).eval(), data, result)
        write_json(file, to_json(found))
    state.wait_for_everyone()
    return read_json(file)
