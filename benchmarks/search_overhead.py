"""What a search spends on anything but training: proposing, recording, display, as shares of its wall time.

python benchmarks/search_overhead.py                       # the default search, in a fresh folder
python benchmarks/search_overhead.py +experiment=smoke     # any overrides of `carbs-scaling search`
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hydra import compose, initialize_config_dir

from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands.search import build_task, load_search


def main() -> None:
    """Runs the search and prints its timings."""
    import optuna

    from carbs_scaling.report.live import SearchDisplay
    from carbs_scaling.search import Search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            composed = compose("search", [f"study.directory={folder}", *sys.argv[1:]])
        config, task_config = load_search(composed)
        task = build_task(config, task_config)
        search = Search(config, task, SearchDisplay(config.study.name, config.budget.flops))
        study = search.run()
        records = study.records()
    timings = dataclasses.asdict(search.timings)
    overhead = timings["proposing"] + timings["recording"] + timings["display"]
    result = {
        "trials": len(records),
        **{f"{name}_seconds": round(seconds, 2) for name, seconds in timings.items()},
        "training_seconds_of_all_workers": round(sum(r.outcome.seconds for r in records), 1),
        "overhead_share_of_wall": round(overhead / timings["wall"], 4),
    }
    print(json.dumps(result, indent=2))
    output = Path("benchmarks/results/search_overhead.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
