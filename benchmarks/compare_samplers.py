"""Samplers side by side on real training at equal FLOPs: several seeds each, any task that has a preset.

    python benchmarks/compare_samplers.py                      # hours on two cores; the same command goes on
    python benchmarks/compare_samplers.py --smoke              # minutes, to see everything work
    python benchmarks/compare_samplers.py --task pretraining,vit_digits --budget 4e12,4e11
    python benchmarks/compare_samplers.py --samplers carbs,random --seeds 0,1,2 executor.workers=1

Each study is the real search, as `carbs-scaling search sampler=SAMPLER study.seed=SEED` runs it: the same
space, trainer, ledger, budget and executor. Only what proposes differs. `imbue` is imbue's own CARBS and
`protein` PufferLib's Protein, each in an environment of its own (`_peers.py`); one that cannot be had is
named on one line and left out. They are told of every trial that has ended, but not of those that run, and
begin where our writing of CARBS does: in the middle of the space. `carbs_best` is our search for the lowest
loss of all (`sampler.goal=best`).

`--task` takes `pretraining` (the text that comes with Python) and names of presets (`+experiment=NAME`);
what a preset needs is added at the end of the command. A study that ended is kept, one that was killed goes
on, one that failed is named and tried again by the next start. After every study `compare.md`,
`compare.json` and `compare.png` in `--folder`/TASK are written anew from those that have ended.

The gain of a search is the fall of the loss from a start that needs no training: that of the frequencies of
the held-out tokens or classes (their entropy; for accuracy, the most frequent class), or the median loss of
the studies' first runs where a task has neither. The best gain is the one down to the lowest loss that any
study reached. Counted are trials, FLOPs and hours until 95% of it are made; a study that never gets there
counts with all that it spent, and is marked. Hours are of the ledger's clock; of a study that was interrupted
the pauses are taken out in proportion.
"""

import argparse
import dataclasses
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two thread pools on the same cores are slow

import numpy as np
import optuna
from _comparison import Ended, Evidence, ordered, write
from _peers import PeerSampler, environment

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.files import write_atomically
from carbs_scaling.numbers import rough_duration, scientific

PEERS = {"imbue": "imbue_carbs", "protein": "protein"}  # kinds of `_peers.py` by sampler
BEST = "carbs_best"  # ours for the lowest loss of all
SAMPLERS = "carbs,carbs_best,grid,random,tpe,imbue_carbs,imbue,protein"
ENDED = "ended_with_budget"  # file in the folder of a study that spent its budget
SMOKE_SHARE = 0.05  # of a preset's budget, where it is not that of pretraining


@dataclass(frozen=True)
class Comparison:
    """One task's studies.

    Args:
        preset: of `conf/experiment`, or `pretraining`.
        folder: of its studies and results.
        budget_flops: of each study; None for that of the preset.
        overrides: of the search.
    """

    preset: str
    folder: Path
    budget_flops: float | None
    overrides: tuple[str, ...]

    def composed(self, sampler: str, seed: int) -> tuple[Any, Any]:
        """The checked configuration of a study, and its task."""
        from hydra import compose, initialize_config_dir

        from carbs_scaling.commands.search import build_task, counted_in_trials, load_search
        from carbs_scaling.config_keys import configuration_folder

        words = [
            *([] if self.preset == "pretraining" else [f"+experiment={self.preset}"]),
            *(["sampler=carbs", "sampler.goal=best"] if sampler == BEST else []),
            *([] if sampler == BEST else [f"sampler={'random' if sampler in PEERS else sampler}"]),
            f"study.name={sampler}-{seed}",
            f"study.directory={self.folder.resolve() / 'studies'}",
            f"study.seed={seed}",
            *([] if self.budget_flops is None else [f"budget.flops={self.budget_flops:g}"]),
            *self.overrides,
        ]
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            config, task_config = load_search(compose("search", overrides=words))
        task = build_task(config, task_config)
        return counted_in_trials(config, task), task

    def ended_with(self, sampler: str, seed: int) -> float | None:
        """The budget that a study has spent; None where it has not ended.

        Raises:
            SystemExit: it was a larger one than is asked for now.
        """
        file = self.folder / "studies" / f"{sampler}-{seed}" / ENDED
        budget = float(file.read_text()) if file.exists() else None
        if budget is not None and self.budget_flops is not None and budget > self.budget_flops * (1 + 1e-9):
            raise SystemExit(
                f"{file.parent} has spent {budget:g} FLOPs, not {self.budget_flops:g}: take another --folder"
            )
        wanted = budget if self.budget_flops is None else self.budget_flops
        return None if budget is None or wanted is None or budget < wanted * (1 - 1e-9) else budget

    def run(self, sampler: str, seed: int) -> None:
        """One study to its end.

        Raises:
            CarbsScalingError: see `Search`; what it did is kept.
        """
        from carbs_scaling.report.live import SearchDisplay
        from carbs_scaling.report.terminal import console
        from carbs_scaling.search import Search, build_sampler

        config, task = self.composed(sampler, seed)
        peer = proposes = None
        if sampler in PEERS:
            config.study.folder.mkdir(parents=True, exist_ok=True)
            peer, proposes = peer_sampler(PEERS[sampler], config, task)
        elif sampler == BEST:
            proposes = build_sampler(config, task)
        if proposes is not None:
            config = dataclasses.replace(config, sampler={"name": sampler})
        display = SearchDisplay(config.study.name, config.budget.flops, task.metric, console(), plain=True)
        try:
            Search(config, task, display, proposes).run()
        finally:
            if peer is not None:
                if peer.restarts:
                    print(f"{sampler}, seed {seed}: its process ended {peer.restarts} times", flush=True)
                peer.close()
        write_atomically(config.study.folder / ENDED, f"{config.budget.flops:g}".encode())

    def evidence(self, samplers: Sequence[str], seeds: Sequence[int]) -> Evidence | None:
        """The evidence of the studies that have ended; None where there are none."""
        from carbs_scaling.commands.compare import require_comparable, spending
        from carbs_scaling.ledger.study import Study

        loaded, studies = [], []
        for sampler in samplers:
            for seed in seeds:
                if self.ended_with(sampler, seed) is None:
                    continue
                name = f"{sampler}-{seed}"
                study = Study.load(StudyConfig(name, str(self.folder / "studies"), None, seed))
                if not any(record.completed for record in study.records()):
                    print(f"{name} has no completed run: it is left out", flush=True)
                    continue
                loaded.append((name, study))
                studies.append(Ended(spending(name, study), hours_of(study)))
        if not studies:
            return None
        require_comparable([name for name, _ in loaded], [study for _, study in loaded])
        _, task = self.composed(samplers[0], seeds[0])
        start = start_loss(task)
        if start is None:
            start = median(
                float(study.spending.loss[np.isfinite(study.spending.loss)][0]) for study in studies
            )
        return Evidence(ordered(studies, samplers), start, task.metric)


def peer_sampler(kind: str, config: Any, task: Any) -> tuple[PeerSampler, Any]:
    """Another project's sampler on the space of a study: its process, and what asks it for legal points."""
    from carbs_scaling.samplers.baselines.imbue_carbs import start_point
    from carbs_scaling.samplers.projected import FEW_ATTEMPTS, ProjectedSampler
    from carbs_scaling.search import build_sampler

    space, seed = build_sampler(config, task).space, config.study.seed
    python, sources = environment(kind)
    log = config.study.folder / "peer.log"
    peer = PeerSampler(kind, space, seed, space.legal(start_point(space, {})), python, sources, log)
    return peer, ProjectedSampler(lambda _: peer, space, config.budget.flops, seed, FEW_ATTEMPTS)


def hours_of(study: Any) -> np.ndarray:
    """Wall hours until each trial of a study had ended, in that order, without pauses between searches."""
    endings = [(when, record) for when, record in study.endings() if not record.imported]
    begun = min(when.timestamp() - (record.wall_seconds or 0.0) for when, record in endings)
    elapsed = np.array([when.timestamp() - begun for when, _ in endings])
    # The last trial ended when the study's own clock stood at its wall time.
    return elapsed / max(elapsed[-1], 1e-9) * study.wall_seconds / 3600


@cache
def start_of(part: Comparison) -> float | None:
    """`start_loss` of a comparison's task."""
    return start_loss(part.composed("random", 0)[1])


def start_loss(task: Any) -> float | None:
    """The loss, in the task's metric, of one who knows frequencies alone; None where a task has none."""
    from carbs_scaling.data.examples import Examples, LabelledExamples
    from carbs_scaling.data.prepared import PreparedText, map_ids
    from carbs_scaling.training.learning import bits_per_byte

    material, config = getattr(task, "text", None), getattr(task, "config", None)
    metric = None if config is None else config.objective.metric
    if isinstance(material, PreparedText):
        ids = map_ids(material.validation_path, material.validation_tokens, material.ids_dtype)
        nats = entropy(np.bincount(np.asarray(ids, dtype=np.int64)))
        if metric != "bits_per_byte":
            return nats
        return None if material.bytes_per_token is None else bits_per_byte(nats, material.bytes_per_token)
    if isinstance(material, LabelledExamples) and metric == "nats_per_label":
        held_out = Examples(material, "validation")
        labels = held_out.read(np.arange(len(held_out)))[:, -1].numpy().astype(np.int64)
        return entropy(np.bincount(labels))
    if isinstance(material, LabelledExamples) and metric == "accuracy":
        return 1 - material.majority_share
    return None


def entropy(counts: np.ndarray) -> float:
    """Entropy, in nats, of the shares that some counts have."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def available(samplers: Sequence[str]) -> list[str]:
    """Without the peers that cannot be had here, each named on one line."""
    there = []
    for sampler in samplers:
        if sampler in PEERS:
            try:
                environment(PEERS[sampler])
            except (SystemExit, OSError) as error:
                print(f"{sampler} cannot be had here ({error}): it is left out", flush=True)
                continue
        there.append(sampler)
    return there


def run_all(comparisons: Sequence[Comparison], samplers: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Runs what is not there yet, a seed of every sampler after the other; names what failed."""
    studies = [(part, sampler, seed) for seed in seeds for part in comparisons for sampler in samplers]
    left = [study for study in studies if study[0].ended_with(*study[1:]) is None]
    failed, took = [], []
    for part in comparisons:
        report(part, samplers, seeds)
    for done, (part, sampler, seed) in enumerate(left):
        name = f"{part.preset}: {sampler}, seed {seed}"
        print(f"{name} ({len(studies) - len(left) + done + 1} of {len(studies)})", flush=True)
        begun = time.monotonic()
        # In a process of its own, so that none takes the others along.
        study = multiprocessing.get_context("spawn").Process(target=run_study, args=(part, sampler, seed))
        study.start()
        study.join()
        if study.exitcode:
            failed.append(name)
            print(f"{name} failed, and is left for the next start", flush=True)
            continue
        took.append(time.monotonic() - begun)
        remaining = sum(took) / len(took) * (len(left) - done - 1)
        print(report(part, samplers, seeds), flush=True)
        print(f"{name} took {took[-1]:.0f} s; left: {rough_duration(remaining)}", flush=True)
    return failed


def run_study(part: Comparison, sampler: str, seed: int) -> None:
    """One study, in a process that ends when the one that began it is gone."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        part.run(sampler, seed)
    except (CarbsScalingError, OSError) as error:
        sys.exit(f"{sampler}, seed {seed}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def end_with_parent() -> None:
    """Waits for the end of the process that began this one, however it died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def report(part: Comparison, samplers: Sequence[str], seeds: Sequence[int]) -> str:
    """Writes table, JSON and picture of what has ended; gives the table."""
    evidence = part.evidence(samplers, seeds)
    if evidence is None:
        return ""
    budget = evidence.studies[0].spending.budget_flops
    title = f"{part.preset}, {scientific(budget)} FLOPs a study"
    settings = {"task": part.preset, "budget_flops": budget, "overrides": list(part.overrides)}
    return write(evidence, part.folder, title, settings)


def main() -> None:
    """Runs what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="pretraining", help="some, with commas")
    parser.add_argument("--samplers", default=SAMPLERS)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--budget", help="training FLOPs of each study: one number, or one a task")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/compare_samplers"))
    parser.add_argument("--smoke", action="store_true", help="two seeds of tiny budgets")
    parser.add_argument("overrides", nargs="*", help="of every search, such as executor.workers=1")
    arguments = parser.parse_intermixed_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds, presets = [int(seed) for seed in arguments.seeds.split(",")], arguments.task.split(",")
    budgets = [float(part) for part in arguments.budget.split(",")] if arguments.budget else [None]
    if len(budgets) not in (1, len(presets)):
        parser.error("--budget: one number, or one a task")
    budgets = budgets * len(presets) if len(budgets) == 1 else budgets
    folder = arguments.folder
    if arguments.smoke:
        folder, seeds = folder.with_name(f"{folder.name}-smoke"), seeds[:2]
        presets = ["smoke" if preset == "pretraining" else preset for preset in presets]
    comparisons = []
    for preset, budget in zip(presets, budgets, strict=True):
        part = Comparison(preset, folder / preset, budget, tuple(arguments.overrides))
        if arguments.smoke and budget is None and preset != "smoke":
            config, _ = part.composed("random", 0)
            part = dataclasses.replace(part, budget_flops=SMOKE_SHARE * config.budget.flops)
        comparisons.append(part)
    samplers = available(arguments.samplers.split(","))
    try:
        failed = run_all(comparisons, samplers, seeds)
    except KeyboardInterrupt:
        sys.exit(130)
    for part in comparisons:
        print(part.folder / "compare.md")
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}. The same command tries them again.")


if __name__ == "__main__":
    main()
