"""What `trials.stopping=law` would have stopped in searches whose runs all went to their end.

    OMP_NUM_THREADS=1 python benchmarks/stopping_replay.py --studies FOLDER/STUDY ... [OVERRIDES]
    # such as budget.max_trial_fraction=0.15 budget.min_trial_fraction=0.001, as the searches had them

Of studies of the default search, by any sampler (`compare_samplers.py`, `continued.py --arms fresh`). Each
run is held against the rule that a search would have given it: made of the runs before it alone, read along
its own loss curve. Since it went on in truth, its end is known: it was lost if it is on the final front of
its study. Two things are not as in a search that stops: later rules know how the stopped runs ended, and what
was saved is not spent on other runs. And the final front is harder to reach than that when a run began, of
which the probability is. The interval takes runs of one search as independent.

Printed by sampler (by the first word of a study's name) and `trials.stop_below`: runs that had a rule, those
stopped, the share of the FLOPs of all runs that is saved, and how many of the stopped were of the front, with
Wilson's 95% interval of their share; then the same of all studies together.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra import compose, initialize_config_dir
from stopping import wilson

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.config import StudyConfig
from carbs_scaling.config_keys import configuration_folder
from carbs_scaling.ledger.curves import seen_curves
from carbs_scaling.ledger.study import Study
from carbs_scaling.report.front import front_records
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.samplers.stopping import LEAST_CURVES, stop_rule
from carbs_scaling.search import build_sampler
from carbs_scaling.stop_rule import StopRule

PROBABILITIES = (0.01, 0.05, 0.1, 0.2)
OURS = {"carbs": "this project", "fresh": "this project"}  # by the first word of a study's name


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stopping_replay.json"))
    parser.add_argument("overrides", nargs="*", help="of the searches' space, where it is not the default")
    options = parser.parse_intermixed_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    places = [place for place in options.studies if "=" not in str(place)]
    overrides = [str(place) for place in options.studies if "=" in str(place)] + options.overrides
    rows: dict[tuple[str, float], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for place in places:
        for probability, seen in replayed(place, overrides).items():
            for name, value in seen.items():
                sampler = place.name.split("-")[0]
                for group in (OURS.get(sampler, sampler), "together"):
                    rows[group, probability][name] += value
        print(f"{place.name} replayed", flush=True)
    table = []
    print(f"{'sampler':<12} {'below':>6} {'ruled':>6} {'stopped':>8} {'saved':>7} {'of the front':>13}")
    for (sampler, probability), row in sorted(rows.items()):
        interval = wilson(int(row["lost"]), int(row["stopped"]))
        saved = row["saved"] / row["flops"]
        table.append({"sampler": sampler, "stop_below": probability, **row, "saved_share": saved})
        table[-1]["interval"] = interval
        print(
            f"{sampler:<12} {probability:>6} {row['ruled']:>6.0f} {row['stopped']:>8.0f} {saved:>7.1%} "
            f"{row['lost']:>4.0f} ({interval[0]:.1%} to {interval[1]:.1%})"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(table, indent=1))


def replayed(place: Path, overrides: list[str]) -> dict[float, dict[str, float]]:
    """Counts and FLOPs of a study by `trials.stop_below`."""
    study = Study.load(StudyConfig(place.name, str(place.parent), None, 0))
    words = [f"study.name={place.name}", f"study.directory={place.parent.resolve()}"]
    words += [f"budget.flops={study.budget_flops:g}", *overrides]
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        config, task_config = load_search(compose("search", overrides=words))
    sampler: Any = build_sampler(config, build_task(config, task_config))
    records, trials = study.records(), study.optuna_study.get_trials(deepcopy=False)
    kept = [record.point for record in front_records(records)]
    seen: dict[float, dict[str, float]] = {p: defaultdict(float) for p in PROBABILITIES}
    known = new_study(sampler)
    for index, record in enumerate(records):
        curves = seen_curves(records[:index], place / "curves")
        history = sampler._history(known, but=-1)
        model = None
        if min(len(curves), len(history.points)) >= LEAST_CURVES:
            model = sampler.model_of(history, np.random.default_rng([0, record.number]))
        for probability, counts in seen.items():
            counts["flops"] += record.flops
            if model is None:
                continue
            rule = stop_rule(sampler.space, history, model, curves, record.point, probability)
            counts["ruled"] += rule is not None
            share = stopped_at(rule, place / "curves" / f"{record.number:05d}.jsonl")
            counts["stopped"] += share < 1
            counts["saved"] += (1 - share) * record.flops
            counts["lost"] += share < 1 and record.point in kept
        known.add_trial(trials[record.number])
    return seen


def stopped_at(rule: StopRule | None, curve: Path) -> float:
    """The share of a run after which the rule ends it; 1 where it does not."""
    if rule is None or not curve.exists():
        return 1.0
    since, before, steps = [0.0, 0.0], 0.0, 0
    for line in curve.read_text().splitlines():
        point = json.loads(line)
        if "train_loss" not in point or "progress" not in point:
            continue
        taken, steps = point["step"] - steps, point["step"]
        since = [since[0] + taken * point["train_loss"], since[1] + taken]
        share = point["progress"]
        if share < 1 and rule.passes(before, share):
            if rule.stops(before, share, since[0] / max(since[1], 1)):
                return float(share)
            before, since = share, [0.0, 0.0]
    return 1.0


if __name__ == "__main__":
    main()
