"""How well the surrogate foresees runs that a search has not made.

    python benchmarks/calibration.py --replay ../shared/data/lm_lr_batch_runs.csv --bank
    python benchmarks/calibration.py --studies studies/seed0 studies/seed1 studies/seed2

A history is cut after its first 10, 16, 24, 32 and 40 runs; the surrogate of each part is asked for good runs
of the same problem, apart for models no larger and for models larger than any that it has seen. Good: within
.02 of the cell's best (replay), about a rate and a batch that are best in most of the bank's problems, within
.25 of the front of all the studies' runs (studies of the default search on the same text). Printed are means
over the cuts: log score, mean and root mean square of the misses in the surrogate's own deviations (0 and 1
where it is calibrated), and their root mean square in losses. Of two surrogates the one with the higher score
knows more.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from _problems import BANK, SEQUENCE_LENGTH, best_rate, params_of
from _replay_table import ReplayTable
from _samplers import Task, build, spend
from scipy.special import logsumexp

from carbs_scaling.frontier import pareto_front
from carbs_scaling.ledger.history import History, read_history
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.space.projection import point_key

CUTS = (10, 16, 24, 32, 40)
# A score below this is counted as this: else one run that was thought impossible is the whole mean.
LEAST_SCORE = -15.0


@dataclass(frozen=True)
class Source:
    """Histories of one problem and runs to be foreseen.

    Args:
        name: of the problem.
        sampler: whose surrogate is asked.
        histories: finished runs, in the order in which they were made.
        points: to be foreseen.
        losses: of these, shape (m,).
        noise_sd: of these losses beside what the surrogate calls noise.
    """

    name: str
    sampler: CarbsSampler
    histories: list[History]
    points: list[dict]
    losses: np.ndarray
    noise_sd: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replay", help="CSV of published runs, which ours searches with three seeds")
    parser.add_argument("--bank", action="store_true", help="the synthetic problems, one search of ours each")
    parser.add_argument("--studies", nargs="*", default=[], help="folders of default searches")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sources = []
    if arguments.studies:
        sources.append(studies_source([Path(folder) for folder in arguments.studies]))
    if arguments.replay:
        sources.append(replay_source(arguments.replay))
    if arguments.bank:
        sources += [bank_source(problem) for problem in BANK]
    print("| problem | models | score | bias | rms | error |\n| --- | --- | --- | --- | --- | --- |")
    for source in sources:
        for models, rows in foreseen(source).items():
            score, bias, rms, error = np.mean(rows, axis=0)
            print(f"| {source.name} | {models} | {score:.2f} | {bias:+.2f} | {rms:.2f} | {error:.4f} |")


def foreseen(source: Source) -> dict[str, list[tuple[float, float, float, float]]]:
    """Score, bias, root mean square and error of each cut of each history, by size of the model."""
    rows = defaultdict(list)
    asked = source.sampler.space.describe(source.points)
    keys = [point_key(point) for point in source.points]
    for history in source.histories:
        for cut in (c for c in CUTS if c <= len(history.points)):
            part = History(
                history.points[:cut],
                history.loss[:cut],
                history.flops[:cut],
                [],
                [],
                sum(history.flops[:cut]),
                0,
            )
            model = source.sampler.model_of(part, np.random.default_rng(0))
            noise = np.hypot(model.noise_sd, source.noise_sd)
            posterior = model.posterior(asked.rows)
            sd = np.hypot(posterior.deviations.numpy(), noise)
            off = (source.losses - posterior.means.numpy()) / sd
            log_weights = posterior.weights.log().numpy()[:, None]
            density = logsumexp(log_weights - off**2 / 2 - np.log(sd * np.sqrt(2 * np.pi)), axis=0)
            mean, variance = (part[:, 0].numpy() for part in (posterior.mean, posterior.variance))
            z = (source.losses - mean) / np.sqrt(variance + noise**2)
            largest = source.sampler.space.describe(part.points).features[:, 0].max()
            made = {point_key(point) for point in part.points}
            new = np.array([key not in made for key in keys])
            seen = asked.features[:, 0] <= largest + 1e-9
            for models, chosen in (("no larger", new & seen), ("larger", new & ~seen)):
                if chosen.any():
                    rows[models].append(
                        (
                            float(np.maximum(density[chosen], LEAST_SCORE).mean()),
                            float(z[chosen].mean()),
                            float(np.sqrt(np.mean(z[chosen] ** 2))),
                            float(np.sqrt(np.mean((source.losses - mean)[chosen] ** 2))),
                        )
                    )
    return dict(sorted(rows.items(), reverse=True))


def replay_source(path: str) -> Source:
    """Three searches of the published runs."""
    table = ReplayTable(path)
    # Of Step Law's table this is 3e21; of another the same number of dearest runs.
    task = Task(table, 8.2 * table.cell_flops.max(), table.start, table.loss)
    points, losses = [], []
    for cell in table.cells:
        for i in np.flatnonzero(cell.losses < cell.best_loss + 0.02):
            rate, batch = np.exp(cell.rates[i]), np.exp(cell.batches[i])
            size = {"params": cell.params, "tokens": cell.tokens}
            points.append({**size, "learning_rate": float(rate), "batch_sequences": float(batch)})
            losses.append(cell.losses[i])
    histories = [searched(task, seed, max(CUTS) + 1) for seed in range(3)]
    return Source(f"replay, {table.name}", build("ours", task, 0), histories, points, np.array(losses), 0.003)


def bank_source(problem) -> Source:
    """One search of a synthetic problem; foreseen are runs near its known optimum."""
    noise, rng = np.random.default_rng([7, 0]), np.random.default_rng(0)
    budget = 0.4 * problem.budget
    task = Task(problem, budget, problem.start, lambda point: problem.loss(point, noise))
    options = {"overhead_flops": budget / 160}
    points = []
    while len(points) < 150:
        point = near_optimum(problem, rng)
        if not problem.diverges(point):
            points.append(point)
    losses = np.array([problem.true_loss(point) for point in points])
    histories = [searched(task, 0, max(CUTS) + 1, **options)]
    return Source(problem.name, build("ours", task, 0, **options), histories, points, losses, 0.003)


def near_optimum(problem, rng: np.random.Generator) -> dict:
    """A random shape with rate and batch about the best of most problems of the bank."""
    point = {
        name: float(np.exp(rng.uniform(np.log(d.low), np.log(d.high))))
        for name, d in problem.distributions.items()
    }
    point = problem.project({**point, "depth": round(point["depth"])})
    batch = 65536 * (point["tokens"] / 1e9) ** 0.5 * np.exp(0.4 * rng.normal()) / SEQUENCE_LENGTH
    point["batch_sequences"] = int(np.clip(round(batch), 8, 4096))
    exponents = {"by_n": -0.1, "by_d": -0.3} if problem.name == "other exponents" else {}
    rate = best_rate({**point, "n": params_of(point)}, **exponents) * np.exp(0.3 * rng.normal())
    point["learning_rate"] = float(np.clip(rate, 1e-4, 3e-2))
    if "warmup" in point:
        decay = float(np.clip(0.1 * 3e-3 / point["learning_rate"], 1e-3, 1.0))
        point.update(warmup=0.03, beta2=0.95, weight_decay=decay)
    return point


def searched(task: Task, seed: int, trials: int, **options) -> History:
    """The first trials of a search of ours that ended."""
    bought = spend(build("ours", task, seed, **options), task, trials)
    ended = np.flatnonzero(np.isfinite(bought.loss))
    flops = [float(bought.flops[i]) for i in ended]
    points = [bought.points[i] for i in ended]
    return History(points, [float(bought.loss[i]) for i in ended], flops, [], [], sum(flops), 0.0)


def studies_source(folders: list[Path]) -> Source:
    """Default searches of the same text; each is asked for the good runs of all."""
    from hydra import compose, initialize_config_dir

    from carbs_scaling.cli import configuration_folder
    from carbs_scaling.commands.search import build_task, load_search
    from carbs_scaling.config import StudyConfig
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.search import build_sampler

    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        config, task_config = load_search(compose("search"))
    sampler = build_sampler(config, build_task(config, task_config))
    histories = []
    for folder in folders:
        study = Study.load(StudyConfig(folder.name, str(folder.parent), None, 0))
        histories.append(read_history(study.optuna_study, sampler.space))
    runs = {
        (point_key(point), loss): (point, loss, flops)
        for h in histories
        for point, loss, flops in zip(h.points, h.loss, h.flops, strict=True)
    }
    points, losses, flops = (list(column) for column in zip(*runs.values(), strict=True))
    losses, flops = np.array(losses), np.array(flops)
    front = pareto_front(flops, losses)
    level = np.interp(np.log(flops), np.log(flops[front]), losses[front])
    good = np.flatnonzero(losses < level + 0.25)
    return Source("text", sampler, histories, [points[i] for i in good], losses[good], 0.01)


if __name__ == "__main__":
    main()
