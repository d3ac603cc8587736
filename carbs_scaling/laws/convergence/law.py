"""Convergence against model size: tokens, steps and FLOPs to a loss, and the critical batch.

The data are loss curves of runs that differ in N, batch and learning rate. A run of size N at batch B and
rate r reaches the loss L after D tokens, with

    ln D = ln D_min(L, N) + ln(1 + B / B_crit(L, N)) + curvature / 2 (ln r - ln r_best)^2,

    D_min = D_L N^-b_L at each level L,  B_crit ~ L^c N^g,  r_best ~ N^. B^. L^.

The second term is the exchange of steps for tokens of McCandlish et al. 2018 (arXiv 1812.06162); in steps it
reads S = S_min (1 + B_crit / B) with S_min = D_min / B_crit. All runs and levels are fitted jointly. A run
that never reaches a level gives a lower bound of its D; one that is below the level at the start of its
usable part gives an upper bound. Both are censored observations of the likelihood.

Loss curves have three limits:

- The loss on the way is not the loss of a shorter run, which ends at a lower learning rate. So only the part
  of a curve at a high rate is used, and levels are losses of training at a high rate. Schedules that stay at
  their peak (constant, wsd) give long usable parts, a cosine about half.
- A training loss is noisy. It is smoothed by local lines in ln D before its crossing of a level is found.
- Over one epoch the training loss is of unseen text; over several epochs it is too low.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from carbs_scaling.laws.convergence.loss_curves import Observations

# Shared parameters: name -> (prior mean, prior standard deviation), in natural logs and exponents. None: set
# from the runs. Each bootstrap resample draws new prior means, so that a parameter that the runs do not
# identify keeps its prior's width.
SHARED: dict[str, tuple[float | None, float]] = {
    "ln_critical": (None, 2.0),  # ln B_crit at the middle N and L
    "critical_loss": (-3.0, 3.0),  # Kaplan: -1 / 0.21
    "critical_params": (0.0, 0.25),  # Kaplan and McCandlish: 0 at fixed loss
    "ln_rate": (None, 1.5),  # ln of the best rate at the middle N, B and L
    "rate_params": (-0.3, 0.3),
    "rate_batch": (0.4, 0.3),  # Adam's square-root rule: 0.5
    "rate_loss": (0.0, 1.0),
    "ln_curvature": (-0.5, 0.7),
    "ln_noise": (-1.9, 0.7),  # of ln D between runs
}
SIZE_EXPONENT = (-0.2, 0.5)  # of D_min in N at one level


@dataclass(frozen=True)
class LevelSupport:
    """Numbers of runs behind one level: those that reach it, that do not, and that start below it."""

    reached: int
    not_reached: int
    early: int
    sizes: int
    noise_scale_tokens: float | None


@dataclass(frozen=True)
class SizeHeldOut:
    """The largest size predicted from the others: mean and root-mean-square error of its ln tokens."""

    params: float
    observations: int
    bias: float
    error: float


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its 90% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Convergence:
    """The joint fit. N: non-embedding parameters; tokens and batches in tokens.

    Args:
        levels: losses in nats a token, falling, shape (k,).
        point: fitted parameters, shape (p,): k intercepts, k exponents of N, then `SHARED` in order.
        draws: bootstrap over runs, shape (b, p).
        centre: natural logs of the middle N, batch and loss, from which the powers are counted.
        head_flops: h of 6 N + h sqrt(N) FLOPs a token: at one depth, head and attention go with the width.
        observations: the data of the fit.
        supports: of each level.
        params_range, batch_range: smallest and largest of the runs.
        runs: number of runs with a usable curve.
        usable_share: median over runs of the usable share of the tokens.
        held_out: the largest size predicted from the others; None where there are too few.
        warnings: each one line.
    """

    levels: np.ndarray
    point: np.ndarray
    draws: np.ndarray
    centre: tuple[float, float, float]
    head_flops: float
    observations: Observations
    supports: tuple[LevelSupport, ...]
    params_range: tuple[float, float]
    batch_range: tuple[float, float]
    runs: int
    usable_share: float
    held_out: SizeHeldOut | None
    warnings: tuple[str, ...]

    @cached_property
    def _both(self) -> np.ndarray:
        return np.concatenate([self.point[None], self.draws])

    def size_exponent(self, level: int) -> Interval:
        """d ln D_min / d ln N at a level: below 0 where larger models need fewer tokens."""
        return _interval(self._both[:, len(self.levels) + level])

    def step_exponent(self, level: int) -> Interval:
        """d ln S_min / d ln N at a level: that of the tokens less that of the critical batch."""
        return _interval(self._both[:, len(self.levels) + level] - self.shared("critical_params"))

    def min_tokens(self, level: int, params: float) -> Interval:
        """D_min: tokens at a batch far below the critical one and the best rate."""
        return _exp_interval(self._ln_tokens(level, params))

    def tokens(self, level: int, params: float, batch_tokens: float) -> Interval:
        """D at a batch and its best rate."""
        batch = np.logaddexp(0.0, np.log(batch_tokens) - self._ln_critical(level, params))
        return _exp_interval(self._ln_tokens(level, params) + batch)

    def critical_batch(self, level: int, params: float) -> Interval:
        """B_crit in tokens."""
        return _exp_interval(self._ln_critical(level, params))

    def min_steps(self, level: int, params: float) -> Interval:
        """S_min: steps at a batch far above the critical one."""
        return _exp_interval(self._ln_tokens(level, params) - self._ln_critical(level, params))

    def min_flops(self, level: int, params: float) -> Interval:
        """FLOPs of D_min tokens, at `flops_per_token`."""
        return _exp_interval(self._ln_tokens(level, params) + np.log(self.flops_per_token(params)))

    def flops_per_token(self, params: float) -> float:
        """6 N + h sqrt(N): the study's convention at its own shapes, close to 6 N for much larger models."""
        return float(6 * params + self.head_flops * params**0.5)

    def adjusted_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each run at its best rate, and at that rate and a small batch; both (n,)."""
        predicted = predict(self.point, self._design)
        ln_tokens = self.observations.ln_tokens
        without_rate = ln_tokens - predicted.rate
        return np.exp(without_rate), np.exp(without_rate - predicted.batch)

    @cached_property
    def _design(self) -> "Design":
        return Design.of(self.observations, self.levels, self.centre)

    def shared(self, name: str) -> np.ndarray:
        """Fitted value and draws of a parameter of `SHARED`, shape (1 + b,)."""
        return self._both[:, 2 * len(self.levels) + list(SHARED).index(name)]

    def _ln_tokens(self, level: int, params: float) -> np.ndarray:
        size = np.log(params) - self.centre[0]
        return np.asarray(self._both[:, level] + self._both[:, len(self.levels) + level] * size)

    def _ln_critical(self, level: int, params: float) -> np.ndarray:
        loss, size = np.log(self.levels[level]) - self.centre[2], np.log(params) - self.centre[0]
        by_loss, by_size = self.shared("critical_loss") * loss, self.shared("critical_params") * size
        return np.asarray(self.shared("ln_critical") + by_loss + by_size)


def _interval(values: np.ndarray) -> Interval:
    """The first of the values with the 90% interval of the others."""
    low, high = np.quantile(values[1:], (0.05, 0.95)).tolist()
    return Interval(float(values[0]), low, high)


def _exp_interval(logs: np.ndarray) -> Interval:
    """The same of logs, as values."""
    found = _interval(logs)
    return Interval(*(float(np.exp(bound)) for bound in (found.value, found.low, found.high)))


@dataclass(frozen=True)
class Design:
    """The observations in logs, centred; arrays of shape (n,)."""

    run: np.ndarray
    level: np.ndarray
    levels: int
    ln_tokens: np.ndarray
    reached: np.ndarray
    early: np.ndarray
    size: np.ndarray
    batch: np.ndarray
    rate: np.ndarray
    loss: np.ndarray
    middle_batch: float

    @property
    def off_middle_batch(self) -> np.ndarray:
        """ln of the batch over the middle one."""
        return self.batch - self.middle_batch

    @staticmethod
    def of(seen: Observations, levels: np.ndarray, centre: tuple[float, float, float]) -> "Design":
        """Build the design of all observations; `centre` as in `Convergence`."""
        return Design(
            run=seen.run,
            level=seen.level,
            levels=len(levels),
            ln_tokens=seen.ln_tokens,
            reached=seen.reached,
            early=seen.early,
            size=np.log(seen.params) - centre[0],
            batch=np.log(seen.batch_tokens),
            rate=np.log(seen.learning_rate),
            loss=np.log(levels)[seen.level] - centre[2],
            middle_batch=centre[1],
        )

    def without(self, out: np.ndarray) -> "Design":
        """Drop the observations where `out` is true."""
        arrays = ("run", "level", "ln_tokens", "reached", "early", "size", "batch", "rate", "loss")
        kept = {name: getattr(self, name)[~out] for name in arrays}
        return Design(**kept, levels=self.levels, middle_batch=self.middle_batch)


@dataclass(frozen=True)
class Prediction:
    """ln tokens and their parts at one set of parameters; arrays of shape (n,).

    Args:
        mean: predicted ln tokens.
        batch: ln(1 + B / B_crit), part of `mean`.
        rate: cost of a learning rate that is not the best, part of `mean`.
        saturation: B / (B + B_crit).
        rate_slope: derivative of `rate` by ln of the best rate.
        noise: standard deviation of ln tokens between runs.
    """

    mean: np.ndarray
    batch: np.ndarray
    rate: np.ndarray
    saturation: np.ndarray
    rate_slope: np.ndarray
    noise: float


def predict(point: np.ndarray, design: Design) -> Prediction:
    """Evaluate the law of this module at parameters (p,)."""
    k = design.levels
    shared = dict(zip(SHARED, point[2 * k :], strict=True))
    critical = (
        shared["ln_critical"]
        + shared["critical_loss"] * design.loss
        + shared["critical_params"] * design.size
    )
    best_rate = (
        shared["ln_rate"]
        + shared["rate_params"] * design.size
        + shared["rate_batch"] * design.off_middle_batch
        + shared["rate_loss"] * design.loss
    )
    curvature = np.exp(shared["ln_curvature"])
    batch = np.logaddexp(0.0, design.batch - critical)
    rate = curvature / 2 * (design.rate - best_rate) ** 2
    return Prediction(
        mean=point[design.level] + point[k + design.level] * design.size + batch + rate,
        batch=batch,
        rate=rate,
        saturation=-np.expm1(-batch),
        rate_slope=-curvature * (design.rate - best_rate),
        noise=float(np.exp(shared["ln_noise"])),
    )
