"""The Sobol baseline."""

import optuna
from optuna.distributions import FloatDistribution

from carbs_scaling.samplers.sampler import build_sampler, new_study
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_points_fill_the_space_evenly():
    encoding = Encoding({name: FloatDistribution(1e-4, 1.0, log=True) for name in "abc"})
    space = LegalSpace(encoding, lambda point: 1.0 + point["a"], lambda point: {})
    study = new_study(build_sampler("sobol", space, 1e9, 0))
    for _ in range(16):
        trial = study.ask(encoding.distributions)
        study.tell(trial, [1.0, 1.0])
    for knob in range(3):
        positions = [encoding.position(trial.params)[knob] for trial in study.trials]
        # Sixteen points of a Sobol sequence: one in each sixteenth of every dimension.
        assert sorted(int(16 * u) for u in positions) == list(range(16))
