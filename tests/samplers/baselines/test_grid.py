"""The grid of a careful person."""

from optuna.distributions import FloatDistribution

from carbs_scaling.samplers.baselines.grid import grid_points
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace


def test_it_sweeps_rates_and_batches_on_a_rising_ladder():
    distributions = {
        "params": FloatDistribution(1e6, 1e8, log=True),
        "tokens": FloatDistribution(1e8, 1e10, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "batch_tokens": FloatDistribution(1e4, 1e6, log=True),
    }

    def flops(point):
        return 6.0 * point["params"] * point["tokens"]

    points = grid_points(LegalSpace(Encoding(distributions), flops, dict), 3e18)
    # Six runs at each cost: of cells as near to it as the space has.
    costs = [flops(points[i]) for i in range(0, len(points) // 2, 6)]
    assert costs == sorted(costs)
    assert len({point["learning_rate"] for point in points[:6]}) == 3
    assert len({point["batch_tokens"] for point in points[:6]}) == 2
    assert sum(flops(point) for point in points[: len(points) // 2]) < 2 * 3e18
