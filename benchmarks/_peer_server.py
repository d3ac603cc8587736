"""Another project's sampler behind JSON lines on standard input and output; run by that project's own Python.

It imports nothing of this project. The first line sets it up, each later one is a question; every line is
answered by one:

    {"kind": "imbue_carbs", "seed": 0, "most_cost": 1e12, "dimensions": [{"name", "low", "high", "log",
     "integer", "start"}, ...]}                                        -> {"ready": true}
    {"tell": {"point": {...}, "loss": 2.1, "cost": 1e9, "failed": false}}  -> {"told": true}
    {"ask": true}                                                      -> {"point": {...}}
"""

import json
import os
import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any


class RandomPeer:
    """Uniform points, to try the wires with."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.dimensions, self.draws = setup["dimensions"], random.Random(setup["seed"])

    def tell(self, run: dict[str, Any]) -> None:
        """Nothing is learnt."""

    def ask(self) -> dict[str, float]:
        """A point."""
        point = {}
        for d in self.dimensions:
            share, low, high = self.draws.random(), d["low"], d["high"]
            point[d["name"]] = low * (high / low) ** share if d["log"] else low + share * (high - low)
        return point


class ImbueCarbs:
    """github.com/imbue-ai/carbs with its defaults; a decade, or a whole range, is its unit of distance."""

    def __init__(self, setup: dict[str, Any]) -> None:
        os.environ["WANDB_MODE"] = "disabled"
        from carbs import CARBS, CARBSParams, LinearSpace, LogSpace, ObservationInParam, Param
        from loguru import logger

        logger.remove()
        self.observation = ObservationInParam
        parameters = []
        for d in setup["dimensions"]:
            whole = {"is_integer": d["integer"], "min": d["low"], "max": d["high"]}
            space = LogSpace(**whole) if d["log"] else LinearSpace(scale=d["high"] - d["low"], **whole)
            parameters.append(Param(name=d["name"], space=space, search_center=d["start"]))
        config = CARBSParams(
            better_direction_sign=-1, seed=setup["seed"], is_wandb_logging_enabled=False,
            is_saved_on_every_observation=False, max_suggestion_cost=setup["most_cost"],
        )  # fmt: skip
        self.peer = CARBS(config, parameters)

    def tell(self, run: dict[str, Any]) -> None:
        """A finished run."""
        loss = 0.0 if run["failed"] else run["loss"]
        self.peer.observe(
            self.observation(input=run["point"], output=loss, cost=run["cost"], is_failure=run["failed"])
        )

    def ask(self) -> dict[str, Any]:
        """A point, which need not be run."""
        return dict(self.peer.suggest(is_suggestion_remembered=False).suggestion)


class Protein:
    """That of github.com/PufferAI/PufferLib 3.0 with its defaults. It maximises: a score is minus a loss."""

    def __init__(self, setup: dict[str, Any]) -> None:
        import numpy as np
        import pyro

        # Of its own package the file asks for this alone; there are no nested names here.
        package: Any = ModuleType("pufferlib")
        package.unroll_nested_dict = dict.items
        sys.modules["pufferlib"] = package
        file = Path(os.environ["PYTHONPATH"]) / "pufferlib" / "sweep.py"
        specification = spec_from_file_location("pufferlib.sweep", file)
        assert specification is not None
        assert specification.loader is not None
        sweep = module_from_spec(specification)
        specification.loader.exec_module(sweep)
        pyro.set_rng_seed(setup["seed"])
        np.random.seed(setup["seed"])  # noqa: NPY002 - what the file draws from
        config: dict[str, Any] = {"metric": "score", "goal": "maximize"}
        for d in setup["dimensions"]:
            kind = "log_normal" if d["log"] else "uniform"
            place = {"min": d["low"], "max": d["high"], "mean": d["start"], "scale": "auto"}
            config[d["name"]] = {"distribution": kind, **place}
        self.peer = sweep.Protein(config, max_suggestion_cost=setup["most_cost"])
        self.worst: float | None = None

    def tell(self, run: dict[str, Any]) -> None:
        """A finished run; one that failed has the lowest score so far, since it takes all alike."""
        score = self.worst if run["failed"] else -run["loss"]
        if score is None:
            return
        self.worst = score if self.worst is None else min(self.worst, score)
        self.peer.observe(run["point"], score, run["cost"], is_failure=run["failed"])

    def ask(self) -> dict[str, Any]:
        """A point, which need not be run."""
        return dict(self.peer.suggest(None)[0])


PEERS = {"random": RandomPeer, "imbue_carbs": ImbueCarbs, "protein": Protein}


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what a peer prints must not be taken for an answer
    peer: Any = None
    for line in sys.stdin:
        said = json.loads(line)
        if peer is None:
            peer, answer = PEERS[said["kind"]](said), {"ready": True}
        elif "tell" in said:
            peer.tell(said["tell"])
            answer = {"told": True}
        else:
            answer = {"point": {k: float(v) for k, v in peer.ask().items() if k != "suggestion_uuid"}}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
