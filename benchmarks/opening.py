"""How long a person waits: for the help of each verb, and until a report of many trials is drawn.

    python benchmarks/opening.py                     # help of each verb, reports of 200 and 5,000 trials
    python benchmarks/opening.py --trials 200 --no-help

Help is timed as a process of its own, from start to end. A report is written for trials drawn from a law,
kept in memory, and opened in headless Chromium: the time is that from the start of its loading to the end of
its scripts, by the browser's own clock, with the figures in sight drawn, and with all of them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from carbs_scaling.ledger.study import Study
from carbs_scaling.ledger.trials import RECORD
from carbs_scaling.report.browser import find_browser
from carbs_scaling.report.study_report import write_report
from carbs_scaling.usage import VERBS

SPACE = {
    "params": FloatDistribution(1e5, 1e7, log=True),
    "tokens": FloatDistribution(1e6, 1e9, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "batch_tokens": FloatDistribution(1e3, 1e5, log=True),
}
# Put after the page's own scripts: the title becomes the milliseconds until they had run.
PARTS = {"opened_seconds": "", "all_drawn_seconds": "#whole"}
CLOCK = "<script>document.title = `drawn ${performance.now()}`</script></body>"


def study_of(count: int) -> Study:
    """A study of `count` runs of a law, in memory."""
    rng = np.random.default_rng(0)
    study = optuna.create_study(study_name=f"of {count}", directions=["minimize", "minimize"])
    trials = []
    for number in range(count):
        point = {name: float(np.exp(rng.uniform(np.log(d.low), np.log(d.high)))) for name, d in SPACE.items()}
        n, d = point["params"], point["tokens"]
        off = np.log(point["learning_rate"] / (0.5 * n**-0.3)) ** 2
        off += 0.3 * np.log(point["batch_tokens"] / (0.1 * d**0.6)) ** 2
        loss = 1 + (20 * n**-0.25 + 60 * d**-0.3) * (1 + 0.03 * off) + 0.003 * rng.normal()
        flops = 6 * n * d
        record = {"roles": point, "details": {}, "flops": flops, "seed": number, "provenance": {}}
        trials.append(
            create_trial(params=point, distributions=SPACE, values=[loss, flops], user_attrs={RECORD: record})
        )
    study.add_trials(trials)
    return Study(study)


def report_opening(count: int, folder: Path) -> dict[str, float]:
    """Seconds to write the report of `count` trials, its size, and seconds until it is drawn."""
    study = study_of(count)
    begun = time.perf_counter()
    page = write_report(study, folder / f"{count}.html")
    written = time.perf_counter() - begun
    size = page.stat().st_size
    page.write_text(page.read_text().replace("</body>", CLOCK))
    drawn = {name: seconds_to_draw(page.as_uri() + part, folder) for name, part in PARTS.items()}
    return {"trials": count, "write_seconds": written, "megabytes": size / 1e6, **drawn}


def seconds_to_draw(address: str, folder: Path) -> float:
    """Until the scripts of a page with the `CLOCK` have run."""
    command = [
        find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/profile", "--window-size=1280,900", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r"<title>drawn ([\d.]+)", done.stdout)
    assert found is not None, "the page's scripts did not end"
    return float(found[1]) / 1000


def help_seconds(verb: str) -> float:
    """Wall time of `VERB --help`, the best of three."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "carbs_scaling.cli", verb, "--help"], capture_output=True, check=True
        )
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    """Prints a table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", default="200,5000")
    parser.add_argument("--no-help", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    result: dict[str, object] = {}
    if not arguments.no_help:
        result["help_seconds"] = helps = {verb: help_seconds(verb) for verb in VERBS}
        for verb, seconds in helps.items():
            print(f"{verb + ' --help':<20} {seconds:5.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result["reports"] = reports = []
        for count in map(int, arguments.trials.split(",")):
            row = report_opening(count, Path(folder))
            reports.append(row)
            print(
                f"report of {count} trials: written in {row['write_seconds']:.1f} s, "
                f"{row['megabytes']:.1f} MB, opens in {row['opened_seconds']:.1f} s, "
                f"all drawn in {row['all_drawn_seconds']:.1f} s",
                flush=True,
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
