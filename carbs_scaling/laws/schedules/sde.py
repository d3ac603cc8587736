"""SGD and Adam as stochastic differential equations on a power-law regression, and the best schedule there.

The task (functional scaling law, Li et al. 2025, arXiv 2509.19189): linear regression whose Hessian has the
eigenvalues l_j = j^-beta (beta: capacity exponent) and whose starting errors v_j satisfy l_j v_j^2 =
j^-(s beta + 1) (s: source exponent; a larger s is an easier task). The excess loss is 1/2 sum_j l_j v_j^2.
After z steps with learning rates lr(z) and batch B,

    dv_j = -lr r_j v_j dz + lr n_j dW_j

    SGD:  r_j = l_j                     n_j = sigma sqrt(l_j / B)
    Adam: r_j = sqrt(l_j B) / sigma     n_j = 1

SGD's noise is that of the labels (variance sigma^2), which dominates late in training; the noise from the
misfit is left out. Adam divides the gradient by the root of its second moment. That root is sigma
sqrt(l_j / B) under three *assumptions*: noise dominates the gradient, Adam's coordinates are the
eigenvectors, and its averages are short against the schedule. Adam's noise is then lr a step at every batch,
and at a given number of samples only lr / sqrt(B) counts: the square-root rule (Malladi et al. 2022, arXiv
2205.10287). For SGD only lr / B counts.

Both are linear, so their second moments are known. With U(z) the area under the schedule from step z to the
end (what is left of the *intrinsic time*),

    excess loss = 1/2 sum_j l_j v_j^2 exp(-2 r_j U(0)) + int lr(z)^2 K(U(z)) dz,
    K(u) = 1/2 sum_j l_j n_j^2 exp(-2 r_j u)

The signal falls as U(0)^-s; the noise is forgotten by the kernel K(u) ~ u^-(2 - 1 / beta). Adam follows the
same law with s' = 2 s and beta' = beta / 2, since its sums are over j^(-beta / 2) in place of j^-beta.

The best schedule of T steps (Li et al. 2026, arXiv 2602.06797). Written in the intrinsic time u that is left,
the noise is int lr K(u) du and the steps are int du / lr = T; where their variations balance lr ~ K(u)^(-1/2)
= u^(1 - 1 / (2 beta)), and du = -lr dz turns this into

    lr(z) = peak (1 - z / T)^(2 beta - 1),   peak ~ T^-((s - 1 + 1 / beta) / (s + 1 / beta)).

lr ~ K(u)^(-1/2) holds for any T; the power of (1 - z / T) holds only where K is a power law. With beta = 2
the first half of the best decay has an exponent of 2.2 at 1e4 steps, 2.7 at 1e8, and 3 in the limit.

For a hard task, s < 1 - 1 / beta, the peak would grow with T. The best schedule then stays at the largest
stable rate and decays only at the end: warmup-stable-decay.
"""

from dataclasses import dataclass

import numpy as np

OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True)
class FunctionalExponents:
    """Exponents of signal and noise for a task under one optimizer.

    Args:
        source: s, exponent of the signal in intrinsic time; positive.
        capacity: beta, above 1/2; noise is forgotten as u^-(2 - 1 / beta).

    Raises:
        ValueError: an exponent out of its range.
    """

    source: float
    capacity: float

    def __post_init__(self) -> None:
        if not (self.source > 0 and self.capacity > 0.5):
            raise ValueError(
                f"source={self.source} must be above 0 and capacity={self.capacity} above 1/2, "
                "as the optimizer sees them"
            )

    @property
    def easy(self) -> bool:
        """Whether the best peak falls with the steps; the best schedule then decays from the start."""
        return self.source >= 1 - 1 / self.capacity

    @property
    def decay_exponent(self) -> float:
        """Exponent of (1 - z / T) in the best schedule, or in the decay of the best WSD."""
        return 2 * self.capacity - 1

    @property
    def peak_exponent(self) -> float:
        """p in peak ~ T^-p; 0 for a hard task, whose peak is the largest stable one."""
        tilt = 1 / self.capacity
        return max(0.0, (self.source - 1 + tilt) / (self.source + tilt))


@dataclass(frozen=True)
class PowerLawTask:
    """A linear regression with power-law spectrum and target.

    Args:
        source: s.
        capacity: beta, above 1: the gradient's noise would have no finite variance below.
        modes: number of eigenvalues; power laws in u end where exp(-2 r u) of the last has fallen.
        label_noise: sigma^2.

    Raises:
        ValueError: a value out of its range.
    """

    source: float
    capacity: float
    modes: int = 1000
    label_noise: float = 1.0

    def __post_init__(self) -> None:
        if not (self.source > 0 and self.capacity > 1 and self.modes >= 1 and self.label_noise > 0):
            raise ValueError(
                "a power-law task needs source > 0, capacity > 1, modes >= 1 and label_noise > 0"
            )

    def exponents(self, optimizer: str) -> FunctionalExponents:
        """Exponents of signal and noise under SGD or Adam."""
        _check_optimizer(optimizer)
        scale = 1.0 if optimizer == "sgd" else 2.0
        return FunctionalExponents(scale * self.source, self.capacity / scale)

    def dynamics(self, optimizer: str, batch: float) -> "Dynamics":
        """Build the equation of each mode under SGD or Adam with `batch` samples a step."""
        _check_optimizer(optimizer)
        j = np.arange(1.0, self.modes + 1)
        eigenvalues = j**-self.capacity
        gradient_sd = np.sqrt(self.label_noise * eigenvalues / batch)
        if optimizer == "sgd":
            drift, noise = eigenvalues, gradient_sd
        else:
            drift, noise = eigenvalues / gradient_sd, np.ones_like(j)
        return Dynamics(
            eigenvalues,
            drift,
            noise,
            errors=j ** (-self.source * self.capacity / 2 - 0.5) / np.sqrt(eigenvalues),
        )


def _check_optimizer(optimizer: str) -> None:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={optimizer!r} is not one of {', '.join(OPTIMIZERS)}")


@dataclass(frozen=True)
class Dynamics:
    """dv_j = -lr r_j v_j dz + lr n_j dW_j for M modes, all fields of shape (M,).

    Args:
        eigenvalues: l_j, which weigh v_j^2 in the loss.
        drift: r_j, per unit of learning rate and step.
        noise: n_j.
        errors: v_j at the start.
    """

    eigenvalues: np.ndarray
    drift: np.ndarray
    noise: np.ndarray
    errors: np.ndarray

    def loss_curve(self, rates: np.ndarray) -> np.ndarray:
        """Expected excess loss after each step: (T,) -> (T,).

        Each second moment obeys dm/dz = -2 lr r m + lr^2 n^2, solved exactly within a step.
        """
        moments = self.errors**2
        losses = np.empty(len(rates))
        for step, rate in enumerate(rates):
            kept = np.exp(-2 * self.drift * rate)
            moments = moments * kept + self.noise**2 * rate * (1 - kept) / (2 * self.drift)
            losses[step] = 0.5 * moments @ self.eigenvalues
        return losses

    def final_loss(self, rates: np.ndarray, block: float = 1.0) -> tuple[float, np.ndarray]:
        """Evaluate the functional scaling law: expected excess loss at the end, and its gradient.

        Args:
            rates: shape (k,), each held for `block` steps.
            block: steps a rate.

        Returns:
            The loss, and its derivatives by the rates, (k,).

        Within a block the integral of lr^2 K over steps is that of lr K over intrinsic time, so with G' = -K
        the noise is exactly sum_k lr_k [G(u_k) - G(u_{k-1})], with u_k what is left after block k.
        """
        left = np.append(np.cumsum(rates[::-1])[::-1], 0.0) * block  # (k + 1,), from the start to the end
        fading = np.exp(-2 * np.outer(left, self.drift))
        remembered = fading @ (0.25 * self.eigenvalues * self.noise**2 / self.drift)  # G
        kernel = fading @ (0.5 * self.eigenvalues * self.noise**2)  # K = -G'
        signal = 0.5 * self.eigenvalues * self.errors**2
        loss = fading[0] @ signal + rates @ np.diff(remembered)
        # Raising a rate moves all earlier blocks back in intrinsic time, by `block` a unit of rate.
        moved = np.cumsum(rates * np.diff(kernel))
        moved = np.append(0.0, moved[:-1])
        slopes = np.diff(remembered) + block * (
            rates * kernel[:-1] - moved - fading[0] @ (2 * self.drift * signal)
        )
        return float(loss), slopes


def best_schedule(dynamics: Dynamics, steps: int, largest_rate: float, blocks: int = 60) -> np.ndarray:
    """Find numerically the learning rates of least expected loss at the end: shape (blocks,).

    The shape is free: each of `blocks` equal parts of the steps has its own rate, between 0 and the largest
    stable one.

    Args:
        dynamics: of task and optimizer.
        steps: T.
        largest_rate: bound of the rates; SGD is unstable above about 2 / l_1.
        blocks: parts of the schedule.
    """
    from scipy.optimize import minimize

    block = steps / blocks

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        rates = np.exp(logs)
        loss, slopes = dynamics.final_loss(rates, block)
        return np.log(loss), slopes * rates / loss

    position = (np.arange(blocks) + 0.5) / blocks
    start = np.log(0.3 * largest_rate * (1 - position))
    lowest = np.log(largest_rate) - 25.0
    solution = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(lowest, np.log(largest_rate))] * blocks,
        options={"maxiter": 3000, "maxfun": 6000, "ftol": 1e-14, "gtol": 1e-9},
    )
    return np.asarray(np.exp(solution.x))
