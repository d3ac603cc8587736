"""How far the best learning rate moves over a decade of width: standard, muP and CompleteP.

    python benchmarks/parametrization.py [--folder studies/parametrization]

GPT-2 of depth 2 and widths 16, 48 and 160 on Python's own documentation in bytes, all with the same tokens,
batch and seed. Rates a factor of 2 apart are tried from the middle outwards until the best has a worse one on
either side; a parabola through those three in the log of the rate gives the best rate. muP's base is the
least width; CompleteP's base depth is 1, so that its residual multiplier is 1/2. Runs are kept in a file and
not repeated. About 10 minutes on a core.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.files import write_atomically
from carbs_scaling.models.parametrization import PARAMETRIZATIONS
from carbs_scaling.task import TrialContext
from carbs_scaling.trial import Completed

WIDTHS = (16, 48, 160)
DEPTH, SEQUENCES, LENGTH, STEPS = 2, 8, 64, 120
FIRST_RATE = 0.02
MOST_RUNS = 9  # of one width: a valley that has no bottom after so many is reported as it is


def loss_of(parametrization: str, width: int, rate: float) -> float | None:
    """Final held-out loss in nats a byte; None where the run diverged."""
    tokens = STEPS * SEQUENCES * LENGTH
    overrides = (
        "study.name=parametrization",
        f"model.parametrization={parametrization}",
        f"model.base_width={WIDTHS[0]}",
        "model.base_depth=1",
        f"model.sequence_length={LENGTH}",
        f"space.width={width}",
        f"space.depth={DEPTH}",
        f"space.batch_size={SEQUENCES}",
        f"space.tokens_per_parameter={tokens / (12 * DEPTH * width**2)!r}",
        "objective.validation_tokens=8192",
    )
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        config, task_config = load_search(compose("search", list(overrides)))
    outcome = build_task(config, task_config).run({"learning_rate": rate}, TrialContext(0, 1, "cpu"))
    return outcome.loss if isinstance(outcome, Completed) else None


def sweep(parametrization: str, width: int, known: dict[str, float | None], file: Path) -> dict[int, float]:
    """Losses by the power of 2 of the rate over the first, until the best has worse neighbours."""
    losses: dict[int, float] = {}
    wanted = [0, -1, 1]
    while wanted and len(losses) < MOST_RUNS:
        power = wanted.pop(0)
        key = f"{parametrization} {width} {power}"
        if key not in known:
            known[key] = loss_of(parametrization, width, FIRST_RATE * 2.0**power)
            write_atomically(file, json.dumps(known, indent=1).encode())
            print(key, known[key], flush=True)
        loss = known[key]
        losses[power] = math.inf if loss is None else loss
        if not wanted:
            best = min(losses, key=lambda power: losses[power])
            wanted = [power for power in (best - 1, best + 1) if power not in losses]
    return losses


def best_rate(losses: dict[int, float]) -> float:
    """The bottom of the parabola through the best and its neighbours."""
    best = min(losses, key=lambda power: losses[power])
    near = [losses.get(best + side, math.inf) for side in (-1, 0, 1)]
    if not np.isfinite(near).all():
        return FIRST_RATE * 2.0**best
    low, middle, high = near
    return FIRST_RATE * 2.0 ** (best + 0.5 * (low - high) / (low - 2 * middle + high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("studies/parametrization"))
    parser.add_argument("--only", nargs="*", choices=PARAMETRIZATIONS, default=list(PARAMETRIZATIONS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "runs.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    rows = []
    for parametrization in arguments.only:
        swept = [sweep(parametrization, width, known, file) for width in WIDTHS]
        rates = [best_rate(losses) for losses in swept]
        rows.append((parametrization, rates, [min(losses.values()) for losses in swept]))
    heads = "".join(f"  width {width:4d}, loss" for width in WIDTHS)
    print(f"{'best rate':12}{heads}  greatest / least")
    for name, rates, losses in rows:
        cells = "".join(f"{rate:11.4f}, {loss:.3f}" for rate, loss in zip(rates, losses, strict=True))
        print(f"{name:12}{cells}{max(rates) / min(rates):10.2f}")


if __name__ == "__main__":
    main()
