"""Kills coordinator, workers and database at named points, again and again, and checks that nothing is lost.

    python -m benchmarks.soak --kills 200 --minutes 60

The search is that of a small task without a model (`tests/toy_task.py`). Each kill is one life of a
coordinator, which ends by SIGKILL after it has got on a little. The points come in turn, in random order. At
the end the search runs undisturbed, and its ledger must be that of a search that nobody killed: every trial
there, each once, the budget the same, and `check` finds nothing. Begun again on the same folder it goes on
where it was. Needs PostgreSQL for the kills of the database; without it the ledger is SQLite, and they are
left out.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import optuna

from carbs_scaling.config import SearchConfig
from carbs_scaling.errors import StudyError
from carbs_scaling.ledger.checking import check_ledger
from carbs_scaling.ledger.database import ledger_engine, storage_errors
from carbs_scaling.ledger.kept import KeptOutcomes
from carbs_scaling.ledger.lease import take_lease
from carbs_scaling.ledger.study import Study, spent_flops
from tests import postgresql
from tests.toy_task import DyingTask, ToyTask, ledger, search, toy_config

# Where a coordinator dies: object, method, and whether before or after the call.
POINTS = {
    "a trial is asked for": (Study, "ask", "before"),
    "a trial is open without its record": (Study, "_open", "before"),
    "a trial is open and not begun": (Study, "_open", "after"),
    "an outcome is not kept": (KeptOutcomes, "add", "before"),
    "an outcome is kept and not recorded": (KeptOutcomes, "add", "after"),
    "a trial is closed in part": (optuna.storages.RDBStorage, "set_trial_state_values", "before"),
    "a trial is recorded and still kept": (KeptOutcomes, "done", "before"),
}
ANYWHERE, WORKER, DATABASE = "any instruction", "a worker", "the database"
LONGEST_LIFE_SECONDS = 90.0


def configuration(folder: Path, name: str, storage: str | None, trials: int, workers: bool) -> SearchConfig:
    """Of a search of about so many trials."""
    executor = "processes" if workers else "in_process"
    config = toy_config(folder, name, executor, "random", flops=5e4 * trials)
    study = dataclasses.replace(config.study, storage=storage)
    return dataclasses.replace(config, study=study, executor=dataclasses.replace(config.executor, retries=2))


def live(config: SearchConfig, task: ToyTask, point: str, calls: int) -> None:
    """One life of a coordinator, in a process of its own; it dies at the point's call of that number."""
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if point in POINTS:
        owner, name, when = POINTS[point]
        whole, left = getattr(owner, name), [calls]

        def dying(*arguments, **named):
            left[0] -= 1
            if left[0] <= 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = whole(*arguments, **named)
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, dying)
    search(config, task)
    os._exit(0)


def ended_trials(config: SearchConfig) -> int:
    """How many trials have ended."""
    engine = ledger_engine(config.study)
    query = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL')"
    try:
        with storage_errors("here"), engine.connect() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())
    except StudyError:  # there are no tables yet, or the database is away
        return 0
    finally:
        engine.dispose()


def one_life(folder: Path, config_of, server, point: str, rng: random.Random) -> bool:
    """A life that ends at the point; whether the search ended before."""
    config = config_of(point == WORKER)
    flag = folder / "worker-dies"
    task = DyingTask(seconds=0.02, dies_at=str(flag))
    flag.unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=live, args=(config, task, point, rng.randint(2, 6)))
    before = ended_trials(config)
    child.start()
    deadline = time.monotonic() + LONGEST_LIFE_SECONDS
    if point not in POINTS:
        wanted = before + rng.randint(1, 3)
        while child.is_alive() and ended_trials(config) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 0.3))
        if point == WORKER:
            flag.touch()
        elif point == DATABASE:
            server.stop()
            time.sleep(rng.uniform(0.0, 2.0))
            server.start()
        if point in (WORKER, DATABASE):  # it survives that, and gets on
            wanted = ended_trials(config) + 2
            while child.is_alive() and ended_trials(config) < wanted and time.monotonic() < deadline:
                time.sleep(0.05)
            if child.is_alive() and ended_trials(config) < wanted:
                raise SystemExit(f"no progress after {point} was killed")
        if child.is_alive():
            child.kill()
    child.join(max(deadline - time.monotonic(), 1.0))
    if child.is_alive():
        child.kill()
        raise SystemExit(f"the search hung at {point!r}")
    if child.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the search ended with {child.exitcode} at {point!r}")
    return child.exitcode == 0


def soak(folder: Path, kills: int, seed: int = 0, minutes: float = 60.0, trials_a_kill: int = 5) -> dict:
    """Kills so often, and checks; gives what was done and found.

    Raises:
        SystemExit: a search hung, or failed in another way than by its kill.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / "kills.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {"lives": []}
    begun, why_not = time.monotonic(), postgresql.why_not()
    server = None if why_not else postgresql.Server(*state.get("server", []))
    if server is not None:
        state["server"] = [str(server.folder), server.port]
        state_file.write_text(json.dumps(state))
    trials = max(kills * trials_a_kill, 20)
    points = [*POINTS, ANYWHERE, WORKER, *([DATABASE] if server else [])]
    try:
        storage = server.url() if server else None

        def config_of(workers: bool) -> SearchConfig:
            return configuration(folder, "soaked", storage, trials, workers)

        rng = random.Random(f"{seed} {len(state['lives'])}")
        ended = False
        while not ended and len(state["lives"]) < kills and time.monotonic() - begun < 60 * minutes:
            number = len(state["lives"])
            turn = random.Random(f"{seed} {number // len(points)}").sample(points, len(points))
            point = turn[number % len(points)]
            ended = one_life(folder, config_of, server, point, rng)
            if not ended:
                state["lives"].append(point)
                state_file.write_text(json.dumps(state))
        config = config_of(False)
        soaked = search(config, ToyTask())
        unbroken = search(configuration(folder, "unbroken", None, trials, False), ToyTask())
        records = soaked.records()
        checked = check_ledger(config.study, mend=False)
        result = {
            "kills": len(state["lives"]),
            "at": dict(Counter(state["lives"])),
            "database": "postgresql" if server else f"sqlite ({why_not})",
            "trials": [len(unbroken.records()), len(records)],
            "open": sum(record.running for record in records),
            "spent_flops": [spent_flops(unbroken.records()), spent_flops(records)],
            "budget_flops": config.budget.flops,
            "faults": [*map(list, checked.faults), *checked.remarks],
            "same_ledger": ledger(unbroken) == ledger(soaked),
            "lease_is_free": True,
            "seconds": time.monotonic() - begun,
        }
        take_lease(config.study).release()
    except BaseException:
        if server is not None:  # it is gone on with
            server.stop()
        raise
    if server is not None:
        server.remove()
    result["passed"] = bool(
        result["same_ledger"]
        and not result["faults"]
        and not result["open"]
        and result["spent_flops"][1] <= result["budget_flops"]
    )
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    return result


def main() -> None:
    """Prints the result; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/soak"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = soak(options.folder.resolve(), options.kills, options.seed, options.minutes)
    print(json.dumps(result, indent=2))
    if not result["passed"]:
        raise SystemExit("the killed search differs from the unbroken one")


if __name__ == "__main__":
    main()
