"""Samplers of other projects in an environment of their own, as Optuna samplers of the benchmarks.

imbue's own CARBS and PufferLib's Protein want packages that ours does not, such as pyro and wandb.
`CARBS_SCALING_PEERS` names a folder (default `benchmarks/results/peers`) in which a virtual environment is
made and the projects cloned, once; a clone that lies there already, as `carbs` or `PufferLib`, is taken. The
sampler is a process there that speaks JSON lines (`_peer_server.py`). Of PufferLib only `pufferlib/sweep.py`
is run: nothing of it is built, and that one file of a source distribution will do.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.history import FAILURES
from carbs_scaling.ledger.trials import read_trials
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.trial import Status

# By kind: the clone's folder, and what `git clone` is told. Protein is that of PufferLib 3.0 on PyPI.
SOURCES = {
    "imbue_carbs": ("carbs", ["https://github.com/imbue-ai/carbs"]),
    "protein": ("PufferLib", ["--branch", "3.0", "https://github.com/PufferAI/PufferLib"]),
}
PACKAGES = (
    "torch==2.13.0", "numpy", "scipy", "scikit-learn", "pyro-ppl", "attrs", "cattrs", "loguru", "seaborn",
    "wandb",
)  # fmt: skip
KINDS = {"imbue's CARBS": "imbue_carbs", "PufferLib's Protein": "protein"}


def environment(kind: str) -> tuple[str, Path]:
    """The Python of the peers, and the folder of one's sources; both are made where they are missing.

    Args:
        kind: of `SOURCES`.

    Raises:
        SystemExit: git or pip failed.
    """
    folder = Path(os.environ.get("CARBS_SCALING_PEERS", "benchmarks/results/peers")).resolve()
    name, source = SOURCES[kind]
    python, clone = folder / "venv/bin/python", folder / name
    steps = []
    if not clone.exists():
        steps.append(["git", "clone", "--quiet", "--depth", "1", *source, str(clone)])
    if not (folder / "installed").exists():
        steps.append([sys.executable, "-m", "venv", str(folder / "venv")])
        steps.append([str(python), "-m", "pip", "install", "--quiet", *PACKAGES])
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            raise SystemExit(f"failed: {' '.join(step)}")
    (folder / "installed").touch()
    return str(python), clone


class PeerSampler(BaseSampler):
    """A sampler in another process, told what is really run.

    It is told of each trial once it has ended, in any order, and of none that runs. A peer whose process ends
    is begun again once a proposal, with another seed, and told all of it.

    Args:
        kind: of `_peer_server.PEERS`.
        space: what may be run.
        seed: of its generators.
        start: where it begins.
        python: of its environment.
        sources: put before its path; None for none.
        log: file for what it prints on standard error; None for nowhere.
    """

    def __init__(
        self,
        kind: str,
        space: LegalSpace,
        seed: int,
        start: dict[str, Any],
        python: str,
        sources: Path | None,
        log: Path | None = None,
    ) -> None:
        self.kind, self.space, self.seed = kind, space, seed
        self.command = [python, str(Path(__file__).with_name("_peer_server.py"))]
        path = {} if sources is None else {"PYTHONPATH": str(sources)}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **path}
        self.log, self.restarts = log, 0
        self.dimensions = [
            {
                "name": name, "low": float(d.low), "high": float(d.high), "log": bool(d.log),
                # Rounding is the projection's; whole numbers would be too coarse a grid for theirs.
                "integer": False, "start": float(np.clip(start[name], d.low, d.high)),
            }
            for name, d in space.encoding.distributions.items()
        ]  # fmt: skip
        self._begin()

    def _begin(self) -> None:
        self.told: set[int] = set()  # numbers of trials
        with (Path(os.devnull) if self.log is None else self.log).open("a") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=self.environment,
            )  # fmt: skip
        self._say({
            "kind": self.kind, "seed": self.seed + 1000 * self.restarts,
            "most_cost": self.space.highest_flops, "dimensions": self.dimensions,
        })  # fmt: skip

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait(30)

    def _say(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a line.

        Raises:
            CarbsScalingError: the process ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        answer = ""
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            said = "" if self.log is None else f" ({self.log})"
            raise CarbsScalingError(
                f"the peer {self.kind} ended with {self.process.wait(30)}{said} after "
                f"{json.dumps(message)[:200]}"
            )
        return dict(json.loads(answer))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.encoding.distributions)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict) -> dict[str, Any]:
        try:
            return self._asked(study)
        except CarbsScalingError:
            self.close()
            self.restarts += 1
            self._begin()
            return self._asked(study)

    def _asked(self, study: Study) -> dict[str, Any]:
        for ended in read_trials(study):
            if ended.number in self.told or ended.status is None:
                continue
            point = self.space.point_of(ended.params)
            failed = ended.status in FAILURES
            if point is not None and (failed or ended.status is Status.COMPLETED):
                numbers = {name: float(value) for name, value in point.items()}
                cost = self.space.cost(point) if ended.flops is None or failed else ended.flops
                loss = 0.0 if ended.loss is None else ended.loss
                self._say({"tell": {"point": numbers, "loss": loss, "cost": cost, "failed": failed}})
            self.told.add(ended.number)
        return self.space.encoding.clip(self._say({"ask": True})["point"])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise NotImplementedError("every parameter is proposed together")
