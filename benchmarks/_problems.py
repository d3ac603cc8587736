"""Synthetic scaling problems with a known best front: some obey the assumed law, some do not.

Every problem has N from width and depth, D from tokens, a learning rate and a batch. Its loss is a floor over
(N, D) plus penalties that vanish at a known optimum, so the true front is that of the floor. A run sees the
loss plus seed noise; regret is counted on the noise-free loss.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.frontier import hypervolume

SEQUENCE_LENGTH = 128
HEAD_SIZE = 64
Term = Callable[[dict], float]


@dataclass(frozen=True)
class Problem:
    """A searchable function with a known front.

    Args:
        name: of the problem.
        right_law: whether the sampler's law can be exactly right about it.
        floor: best loss at (N, D), elementwise on arrays.
        penalty: what a point loses to the floor.
        noise_sd: of a run's loss.
        diverges: whether a point breaks instead of giving a loss.
        broken: the loss of a point that broke, as a multiple of its floor; None where it has none.
        extra: further distributions, by name.
    """

    name: str
    right_law: bool
    floor: Callable[[np.ndarray, np.ndarray], np.ndarray]
    penalty: Term
    noise_sd: float
    diverges: Callable[[dict], bool] = lambda point: False
    broken: float | None = None
    extra: dict = field(default_factory=dict)

    @property
    def distributions(self) -> dict:
        """Two and a half decades of N, two of D."""
        return {
            "width": IntDistribution(128, 1024, log=True),
            "depth": IntDistribution(2, 12, log=True),
            "tokens": FloatDistribution(1e8, 1e10, log=True),
            "learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
            "batch_sequences": IntDistribution(8, 4096, log=True),
            **self.extra,
        }

    @property
    def start(self) -> dict:
        """A cheap point of somebody who has not tuned anything."""
        point = {"width": 128, "depth": 2, "tokens": 1e8, "learning_rate": 1e-3, "batch_sequences": 128}
        return {**point, **{name: (d.low * d.high) ** 0.5 for name, d in self.extra.items()}}

    @property
    def budget(self) -> float:
        """Five of the dearest run."""
        return 5 * self.flops({"width": 1024, "depth": 12, "tokens": 1e10})

    def project(self, point: dict) -> dict:
        """Width as a multiple of the head size."""
        return {**point, "width": HEAD_SIZE * max(2, round(point["width"] / HEAD_SIZE))}

    def flops(self, point: dict) -> float:
        """6 N D."""
        return 6.0 * params_of(point) * point["tokens"]

    def roles(self, point: dict) -> dict:
        """The roles of `CarbsSampler`."""
        return {
            "params": params_of(point),
            "tokens": point["tokens"],
            "learning_rate": point["learning_rate"],
            "batch_tokens": point["batch_sequences"] * SEQUENCE_LENGTH,
        }

    def true_loss(self, point: dict) -> float:
        """Without noise."""
        return self.floor_of(point) + self.penalty(point)

    def loss(self, point: dict, rng: np.random.Generator) -> float | None:
        """What a run shows, or None where it diverges without a loss."""
        if not self.diverges(point):
            return self.true_loss(point) + self.noise_sd * float(rng.normal())
        return None if self.broken is None else self.broken * self.floor_of(point)

    def floor_of(self, point: dict) -> float:
        """The best loss at a point's N and D."""
        return float(self.floor(params_of(point), point["tokens"]))

    @property
    def reference(self) -> tuple[float, float]:
        """0.1 decade past the dearest run, and a tenth of the floor's range above its cheapest value."""
        cheap, dear = float(self.floor(12 * 2 * 128.0**2, 1e8)), float(self.floor(12 * 12 * 1024.0**2, 1e10))
        return float(np.log10(self.budget / 5) + 0.1), cheap + 0.1 * (cheap - dear)

    def best_area(self, least_flops: float = 0.0) -> float:
        """Area of the true front of runs that cost no less."""
        widths = np.arange(128, 1025, HEAD_SIZE, dtype=float)
        params = np.unique(12 * np.arange(2, 13)[:, None] * widths[None] ** 2).reshape(-1)
        tokens = np.geomspace(1e8, 1e10, 300)
        grid_n, grid_d = (g.reshape(-1) for g in np.meshgrid(params, tokens))
        flops = 6 * grid_n * grid_d
        inside = flops >= least_flops
        return hypervolume(flops[inside], self.floor(grid_n, grid_d)[inside], self.reference)


def params_of(point: dict) -> float:
    """Non-embedding parameters, 12 L d^2."""
    return 12.0 * point["depth"] * point["width"] ** 2


def power_law(E, A, alpha, C, beta):
    """E + A (N / 1e7)^-alpha + C (D / 1e9)^-beta."""
    return lambda n, d: E + A * (n / 1e7) ** -alpha + C * (d / 1e9) ** -beta


def best_rate(point: dict, base=3e-3, by_n=-0.4, by_d=0.0, by_b=0.4) -> float:
    """A power law in N, D and B around (1e7, 1e9, 65,536)."""
    r = {**point, "n": params_of(point), "b": point["batch_sequences"] * SEQUENCE_LENGTH}
    return base * (r["n"] / 1e7) ** by_n * (r["tokens"] / 1e9) ** by_d * (r["b"] / 65536) ** by_b


def off_rate(point: dict, **law) -> float:
    """ln(rate / best rate)."""
    return float(np.log(point["learning_rate"] / best_rate(point, **law)))


def off_batch(point: dict, base=65536.0, by_d=0.5) -> float:
    """ln(batch / best batch)."""
    b = point["batch_sequences"] * SEQUENCE_LENGTH
    return float(np.log(b / (base * (point["tokens"] / 1e9) ** by_d)))


def parabola(rate=0.04, batch=0.015, **law) -> Term:
    """Quadratic valleys in the logs."""
    return lambda p: rate * off_rate(p, **law) ** 2 + batch * off_batch(p) ** 2


def lopsided(p: dict) -> float:
    """Exponential above the best rate and linear below it; large batches lose tokens."""
    u, v = off_rate(p), off_batch(p)
    return 0.08 * (np.exp(0.8 * u) - 0.8 * u - 1) + 0.05 * (np.exp(0.6 * v) - 0.6 * v - 1)


def broken_floor(n, d):
    """The exponent of N halves above 3e7, as where the data start to limit."""
    n = np.asarray(n, dtype=float)
    bend = (1 + (n / 3e7) ** 3) ** (0.25 / 3)
    return 1.5 + 0.8 * (n / 1e7) ** -0.5 * bend + 0.5 * (d / 1e9) ** -0.3


def interacting_floor(n, d):
    """N and D need one another: a product term beside the sum."""
    return (
        1.5 + 0.4 * (n / 1e7) ** -0.3 + 0.4 * (d / 1e9) ** -0.3 + 0.25 * (n / 1e7) ** -0.4 * (d / 1e9) ** -0.5
    )


def curved_rate(p: dict) -> float:
    """ln e* bends with ln N, which no power law does."""
    n = np.log(params_of(p) / 1e7)
    return 0.05 * (off_rate(p) + 0.12 * n**2) ** 2 + 0.015 * off_batch(p) ** 2


def plateau(p: dict) -> float:
    """Beyond a factor of 2 off the best rate or batch everything is equally bad."""
    return 0.35 * np.tanh(0.4 * off_rate(p) ** 2 + 0.1 * off_batch(p) ** 2)


def second_valley(p: dict) -> float:
    """A worse, wider valley lies eight times below the best rate."""
    u = off_rate(p)
    return float(min(0.06 * u**2, 0.12 + 0.01 * (u + 2.1) ** 2) + 0.015 * off_batch(p) ** 2)


def eight_dimensions(p: dict) -> float:
    """Weight decay, beta2 and warmup matter too; weight decay and rate only as a product."""
    decay = np.log(p["weight_decay"] * p["learning_rate"] / (0.1 * 3e-3))
    beta2 = np.log((1 - p["beta2"]) / 0.05)
    warmup = np.log(p["warmup"] / 0.03)
    return parabola()(p) + 0.01 * decay**2 + 0.01 * beta2**2 + 0.006 * warmup**2


CHINCHILLA = power_law(1.8, 1.7, 0.35, 1.05, 0.36)
BANK = (
    Problem("published law", True, CHINCHILLA, parabola(), 0.003),
    Problem(
        "other exponents", True, power_law(0.4, 1.2, 0.15, 0.9, 0.6), parabola(by_n=-0.1, by_d=-0.3), 0.005
    ),
    Problem("lopsided valley, cliff", True, CHINCHILLA, lopsided, 0.003, lambda p: off_rate(p) > 1.6),
    Problem(
        "eight dimensions",
        True,
        CHINCHILLA,
        eight_dimensions,
        0.003,
        extra={
            "weight_decay": FloatDistribution(1e-3, 1.0, log=True),
            "beta2": FloatDistribution(0.9, 0.999),
            "warmup": FloatDistribution(1e-3, 0.3, log=True),
        },
    ),
    Problem("broken power law", False, broken_floor, parabola(), 0.003),
    Problem("interactions", False, interacting_floor, curved_rate, 0.003),
    Problem("plateau", False, CHINCHILLA, plateau, 0.003),
    Problem("second valley", False, CHINCHILLA, second_valley, 0.003),
)
# Not of the bank, whose figures they would change: asked for by name.
ASIDE = (
    Problem("cliff, typed", True, CHINCHILLA, parabola(), 0.003, lambda p: off_rate(p) > 0.6),
    # As language models break: with the loss of one that has hardly learnt anything, and no word of it.
    Problem("cliff, collapse", True, CHINCHILLA, parabola(), 0.003, lambda p: off_rate(p) > 0.6, broken=2.2),
)
