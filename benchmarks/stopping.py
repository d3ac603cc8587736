"""Trials that `trials.stopping=law` ended, run to their end: what was saved, and which were of the front.

    nice python benchmarks/stopping.py --studies benchmarks/results/continued/stopping-8e+12-0 ...

Of searches that ended (`benchmarks/continued.py --arms fresh,stopping`). Each stopped trial is trained whole,
with its seed (`carbs-scaling train study.name=... trial=...`), and held against the final front of its study:
the share that would have been on it, with a 95% interval (Wilson's), and the FLOPs that stopping left out.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

from carbs_scaling.config import StudyConfig
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.trial import Status


def main() -> None:
    """Prints a line a study and the sums."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=Path, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/stopping"))
    options = parser.parse_args()
    stopped, missed, saved, paid = 0, 0, 0.0, 0.0
    for place in options.studies:
        study = Study.load(StudyConfig(place.name, str(place.parent), None, 0))
        records = study.records()
        paid += spent_flops(records)
        for record in (record for record in records if record.status is Status.STOPPED):
            loss = finished(place, record.number, options.folder)
            assert record.outcome is not None
            whole = record.flops / max(record.outcome.progress, 1e-9)
            better = [r for r in records if r.completed and r.flops <= whole and r.loss <= loss]
            stopped, missed, saved = stopped + 1, missed + (not better), saved + whole - record.flops
        print(f"{place.name}: {stopped} stopped so far, {missed} of them of the front", flush=True)
    low, high = wilson(missed, stopped)
    result = {
        "stopped": stopped,
        "on_front": missed,
        "interval": [low, high],
        "saved_flops": saved,
        "saved_share": saved / (saved + paid),
    }
    print(json.dumps(result, indent=1))
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "stopping.json").write_text(json.dumps(result, indent=1))


def finished(place: Path, trial: int, folder: Path) -> float:
    """Loss of a trial that is trained whole; infinite where it diverges."""
    name = f"{place.name}-{trial}".replace("+", "")
    record = folder / name / "training.json"
    if not record.exists():
        words = [f"study.name={place.name}", f"study.directory={place.parent}", f"trial={trial}"]
        own = [f"train.name={name}", f"train.directory={folder}", "train.device=cpu"]
        command = [sys.executable, "-m", "carbs_scaling.cli", "train", *words, *own]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if not record.exists():
        return math.inf
    return float(json.loads(record.read_text())["losses"]["nats_per_token"])


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share."""
    if total == 0:
        return 0.0, 1.0
    share, wide = count / total, z * z / total
    middle, half = share + wide / 2, z * math.sqrt(share * (1 - share) / total + wide / (4 * total))
    return max(0.0, middle - half) / (1 + wide), (middle + half) / (1 + wide)


if __name__ == "__main__":
    main()
