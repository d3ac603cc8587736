"""How convergence changes with model size: tokens, steps and FLOPs to a loss, and the critical batch.

The data are loss curves of runs that differ in N, batch and learning rate. A run of size N at batch B and
rate r reaches the loss L after D tokens,

    ln D = ln D_min(L, N) + ln(1 + B / B_crit(L, N)) + curvature / 2 (ln r - ln r_best)^2,

    D_min = D_L N^-b_L at each level L,  B_crit ~ L^c N^g,  r_best ~ N^. B^. L^.

The second term is the exchange of steps for tokens of McCandlish et al. 2018 (arXiv 1812.06162); in steps it
reads S = S_min (1 + B_crit / B) with S_min = D_min / B_crit. All runs and levels are fitted jointly. A run
that never reaches a level says that its D lies beyond what it saw, one that is below it where its readable
part begins that its D lies before: both are censored observations, and are not left out.

Three things about curves limit what they can say:

- Loss on the way is not the loss of a shorter run: a falling learning rate lowers it further. Only the part
  of a curve where the rate is at least a share of its peak is read. So levels are those of training at a high
  rate; schedules that stay at their peak (constant, wsd) give long usable parts, a cosine about half.
- A training loss is noisy. It is smoothed by local lines in ln D before a level's crossing is looked up.
- Over one epoch the training loss is of text not yet seen; over several it is too low.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from carbs_scaling.laws.convergence.loss_curves import Observations

# Shared parameters: name -> (prior mean, prior standard deviation), in natural logs and exponents. None: set
# from the runs. They are wide, and centres are drawn afresh for each bootstrap resample, so that what only a
# prior knows has that prior's width.
SHARED = {
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
    """What one level rests on: runs that are seen to reach it, that do not, or that begin below it."""

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
        observations: what was fitted.
        supports: of each level.
        params_range, batch_range: smallest and largest of the runs.
        runs: with a usable curve.
        usable_share: median share of a run's tokens that was read.
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

    def _interval(self, logs: np.ndarray) -> Interval:
        low, high = np.exp(np.quantile(logs[1:], (0.05, 0.95)))
        return Interval(float(np.exp(logs[0])), float(low), float(high))

    def size_exponent(self, level: int) -> Interval:
        """d ln D_min / d ln N at a level: below 0 where larger models need fewer tokens."""
        values = self._both[:, len(self.levels) + level]
        return Interval(float(values[0]), *np.quantile(values[1:], (0.05, 0.95)).tolist())

    def step_exponent(self, level: int) -> Interval:
        """d ln S_min / d ln N at a level: that of the tokens less that of the critical batch."""
        values = self._both[:, len(self.levels) + level] - self.shared("critical_params")
        return Interval(float(values[0]), *np.quantile(values[1:], (0.05, 0.95)).tolist())

    def min_tokens(self, level: int, params: float) -> Interval:
        """D_min: tokens at a batch far below the critical one and the best rate."""
        return self._interval(self._ln_tokens(level, params))

    def tokens(self, level: int, params: float, batch_tokens: float) -> Interval:
        """D at a batch and its best rate."""
        batch = np.logaddexp(0.0, np.log(batch_tokens) - self._ln_critical(level, params))
        return self._interval(self._ln_tokens(level, params) + batch)

    def critical_batch(self, level: int, params: float) -> Interval:
        """B_crit in tokens."""
        return self._interval(self._ln_critical(level, params))

    def min_steps(self, level: int, params: float) -> Interval:
        """S_min: steps at a batch far above the critical one."""
        return self._interval(self._ln_tokens(level, params) - self._ln_critical(level, params))

    def min_flops(self, level: int, params: float) -> Interval:
        """FLOPs of D_min tokens, at `flops_per_token`."""
        return self._interval(self._ln_tokens(level, params) + np.log(self.flops_per_token(params)))

    def flops_per_token(self, params: float) -> float:
        """6 N + h sqrt(N): the study's convention at the shapes of its models, 6 N for much larger ones."""
        return 6 * params + self.head_flops * params**0.5

    def adjusted_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Each run's tokens without what its rate cost, and without the batch's part as well; both (n,)."""
        predicted = predict(self.point, self._design)
        ln_tokens = self.observations.ln_tokens
        without_rate = ln_tokens - predicted.rate
        return np.exp(without_rate), np.exp(without_rate - predicted.batch)

    @cached_property
    def _design(self) -> "Design":
        return Design.of(self.observations, self.levels, self.centre)

    def shared(self, name: str) -> np.ndarray:
        """A parameter of `SHARED`: as fitted, then each draw; shape (1 + b,)."""
        return self._both[:, 2 * len(self.levels) + list(SHARED).index(name)]

    def _ln_tokens(self, level: int, params: float) -> np.ndarray:
        size = np.log(params) - self.centre[0]
        return self._both[:, level] + self._both[:, len(self.levels) + level] * size

    def _ln_critical(self, level: int, params: float) -> np.ndarray:
        return (
            self.shared("ln_critical")
            + self.shared("critical_loss") * (np.log(self.levels[level]) - self.centre[2])
            + self.shared("critical_params") * (np.log(params) - self.centre[0])
        )


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
        """The design of all observations; `centre` as in `Convergence`."""
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
        """The observations that are not `out`."""
        arrays = ("run", "level", "ln_tokens", "reached", "early", "size", "batch", "rate", "loss")
        kept = {name: getattr(self, name)[~out] for name in arrays}
        return Design(**kept, levels=self.levels, middle_batch=self.middle_batch)


@dataclass(frozen=True)
class Prediction:
    """ln tokens and what they are made of, each of shape (n,), at one set of parameters.

    `batch` and `rate` are the parts of the batch and of the learning rate in `mean`; `saturation` is
    B / (B + B_crit), and `rate_slope` the slope of `rate` in the logarithm of the best rate.
    """

    mean: np.ndarray
    batch: np.ndarray
    rate: np.ndarray
    saturation: np.ndarray
    rate_slope: np.ndarray
    noise: float


def predict(point: np.ndarray, design: Design) -> Prediction:
    """The law of the module's first lines at parameters (p,)."""
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
