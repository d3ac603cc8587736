"""Samplers of other projects behind JSON lines: `benchmarks/_peers.py`."""

import sys
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution, IntDistribution

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _peers import PeerSampler

from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace


def test_a_peer_in_another_process_is_told_and_asked() -> None:
    distributions = {"width": IntDistribution(8, 64, log=True), "rate": FloatDistribution(1e-4, 1, log=True)}
    space = LegalSpace(Encoding(distributions), lambda point: 1e6 * point["width"], lambda _: {})
    peer = PeerSampler("random", space, 3, {"width": 16, "rate": 0.01}, sys.executable, None)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = new_study(peer)
    seen = []
    for number in range(4):
        trial = study.ask(distributions)
        seen.append(trial.params)
        if number == 2:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, [2.0, 1e6 * trial.params["width"]])
    peer.close()
    assert peer.process.returncode == 0
    assert (peer.told, peer.failed) == (2, 1)
    assert len({point["rate"] for point in seen}) == 4
    assert all(8 <= point["width"] <= 64 for point in seen)
