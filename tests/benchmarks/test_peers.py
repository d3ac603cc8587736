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
    trials = [study.ask(distributions) for _ in range(2)]
    assert peer.told == set()  # both run
    study.tell(trials[1], [2.0, 1e9])
    trials.append(study.ask(distributions))
    assert peer.told == {1}
    study.tell(trials[0], [2.0, 1e9])  # ends after the one begun later
    study.tell(trials[2], state=optuna.trial.TrialState.FAIL)
    trials.append(study.ask(distributions))
    assert peer.told == {0, 1, 2}
    peer.process.kill()
    trials.append(study.ask(distributions))
    assert (peer.restarts, peer.told) == (1, {0, 1, 2})
    peer.close()
    assert peer.process.returncode == 0
    assert len({trial.params["rate"] for trial in trials}) == 5
    assert all(8 <= trial.params["width"] <= 64 for trial in trials)
