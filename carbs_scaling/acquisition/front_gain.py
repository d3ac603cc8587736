"""What a run is worth: the expected gain of the front, per FLOP.

With the cost of a run known, the expected growth of the hypervolume in (log10 FLOPs, loss) is a
one-dimensional integral of expected improvement along the front at and above the run's cost (Emmerich et al.
2011 with one certain coordinate).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from carbs_scaling.frontier import pareto_front

# Standard normal numbers and their probabilities: even steps, since what is averaged over them has kinks.
_NORMAL_NUMBERS = np.linspace(-5.0, 5.0, 41)
_PROBABILITIES = np.exp(-0.5 * _NORMAL_NUMBERS**2)
_PROBABILITIES /= _PROBABILITIES.sum()


@dataclass(frozen=True)
class FrontLevels:
    """The front as steps: between `edges[i]` and `edges[i + 1]` decades the best loss so far is `levels[i]`.

    Args:
        edges: log10 FLOPs, shape (k + 1,), rising; the last is the reference cost.
        levels: losses, shape (k,); below the cheapest run it is the reference loss.
    """

    edges: np.ndarray
    levels: np.ndarray

    @staticmethod
    def of(flops, loss, lowest: float, reference: tuple[float, float]) -> "FrontLevels":
        """The front of some runs.

        Args:
            flops: shape (n,).
            loss: shape (n,).
            lowest: log10 FLOPs of the cheapest legal run.
            reference: (log10 FLOPs, loss) of the corner that areas are measured to.
        """
        flops, loss = np.asarray(flops, dtype=float), np.asarray(loss, dtype=float)
        front = pareto_front(flops, loss)
        costs, levels = np.log10(flops[front]), np.minimum(loss[front], reference[1])
        inside = costs < reference[0]
        edges = np.concatenate([[min(lowest, reference[0])], costs[inside], [reference[0]]])
        edges[0] = min(edges[0], edges[1])
        return FrontLevels(edges=edges, levels=np.concatenate([[reference[1]], levels[inside]]))

    def at(self, log_cost) -> np.ndarray:
        """Best loss so far at or below costs, in the shape of `log_cost`."""
        index = np.searchsorted(self.edges, log_cost, side="right") - 1
        return self.levels[np.clip(index, 0, len(self.levels) - 1)]


def expected_improvement(mean, sd, level) -> np.ndarray:
    """E[(level - y)+] for y ~ Normal(mean, sd), elementwise; exact also far in the tail."""
    sd = np.maximum(sd, 1e-12)
    z = (level - mean) / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    # phi(z) + z Phi(z) cancels for very negative z, where it is phi(z) / z^2 to first order.
    direct = density + z * ndtr(z)
    tail = density / np.maximum(z**2, 1.0)
    return sd * np.where(z < -6, tail, np.maximum(direct, 0.0))


def expected_front_gain(mean, sd, log_cost, front: FrontLevels, threshold: float = 0.0) -> np.ndarray:
    """Expected growth of the front's area by one more run, in decades x loss.

    Args:
        mean: predicted losses, shape `batch_shape x m`.
        sd: their standard deviations, broadcastable to it.
        log_cost: log10 FLOPs, shape (m,).
        front: the front so far.
        threshold: an improvement below this loss counts as none (seed noise).

    Returns:
        Shape `batch_shape x m`.
    """
    start = np.maximum(front.edges[None, :-1], np.asarray(log_cost)[:, None])
    width = np.maximum(front.edges[None, 1:] - start, 0.0)
    mean, sd = np.broadcast_arrays(mean, sd)
    gain = expected_improvement(mean[..., None], sd[..., None], front.levels - threshold)
    return (width * gain).sum(axis=-1)


def expected_repeat_gain(
    mean, covariance, noise_sd: float, log_cost, reference: tuple[float, float]
) -> np.ndarray:
    """Expected growth of the front's area by running each of n points once more, in decades x loss; (n,).

    The front is that of the believed losses, since what counts is which point will be used at a cost, not
    which was lucky. One more run of point i moves the belief in every point j by cov(j, i) / sqrt(var(i) +
    noise^2) times a standard normal number: neighbours that are alike move together, and nothing is learnt
    about which is better. The area is convex in that number, so its expected growth is never below 0, and it
    is above only where the run may change which points are on the front: the knowledge gradient for
    correlated beliefs (Frazier et al. 2009).

    Args:
        mean: believed losses, shape (n,).
        covariance: of the beliefs, shape (n, n).
        noise_sd: standard deviation of a repeated run.
        log_cost: log10 FLOPs, shape (n,).
        reference: (log10 FLOPs, loss) of the corner that areas are measured to.
    """
    order = np.argsort(log_cost, kind="stable")
    mean, covariance = np.asarray(mean, dtype=float)[order], np.asarray(covariance, dtype=float)
    edges = np.minimum(np.append(np.asarray(log_cost, dtype=float)[order], reference[0]), reference[0])
    widths = np.diff(edges)
    variance = np.maximum(np.diag(covariance) + noise_sd**2, 1e-300)
    steps = (covariance / np.sqrt(variance)[:, None])[:, order]

    def area(losses: np.ndarray) -> np.ndarray:
        best = np.minimum(np.minimum.accumulate(losses, axis=-1), reference[1])
        return (reference[1] - best) @ widths

    moved = area(mean + _NORMAL_NUMBERS[:, None] * steps[:, None, :])
    return np.maximum(moved @ _PROBABILITIES - area(mean), 0.0)


def gittins_index(mean, sd, shares, price) -> np.ndarray:
    """Pandora's-box index g with E[(g - y)+] = price, the lower the better; shape (m,).

    Weitzman 1979; as an acquisition Xie et al. 2024 (arXiv 2406.20062).

    Args:
        mean: each of s laws' predictions, shape (s, m).
        sd: their deviations, shape (s, m).
        shares: weight of each law, shape (s,).
        price: cost of looking, in losses, shape (m,).
    """
    low, high = (mean - 8 * sd).min(axis=0) - price, (mean + 8 * sd).max(axis=0) + 2 * price
    for _ in range(50):
        middle = (low + high) / 2
        above = shares @ expected_improvement(mean, sd, middle) > price
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


@dataclass(frozen=True)
class ValleyDoubt:
    """What an ensemble of s laws does not agree on: where the valley's floor lies at the front's t levels.

    Args:
        rates: ln of the best learning rate at each level, shape (s, t).
        batches: ln of the best batch, shape (s, t).
        rate_curvature: loss per squared neper off the best rate, shape (t,).
        batch_curvature: the same for the batch, shape (t,).
        width: decades of cost that each level stands for, shape (t,).
        shares: weight of each law, shape (s,).
    """

    rates: np.ndarray
    batches: np.ndarray
    rate_curvature: np.ndarray
    batch_curvature: np.ndarray
    width: np.ndarray
    shares: np.ndarray


def expected_learning_gain(members, noise_variance, doubt: ValleyDoubt) -> np.ndarray:
    """Front area that later runs are expected to gain by what a run teaches about the valley; shape (m,).

    A run at the mean of the laws' best rates loses curvature x variance to the best. A run's loss y cuts the
    variance of the best rate r by cov(r, y)^2 / var(y), as for jointly normal variables (the knowledge
    gradient of Frazier et al. 2009, with the later decision's value in closed form).

    Args:
        members: each law's prediction for m runs, shape (s, m).
        noise_variance: variance of a run around its law's prediction, shape (m,).
        doubt: about the valley.
    """
    share = doubt.shares[:, None]
    predicted = members - (share * members).sum(axis=0)
    predicted_variance = (share * predicted**2).sum(axis=0)
    gain = np.zeros(members.shape[1])
    for values, curvature in (
        (doubt.rates, doubt.rate_curvature),
        (doubt.batches, doubt.batch_curvature),
    ):
        centred = values - (share * values).sum(axis=0)
        covariance = (share * centred).T @ predicted
        # Two unrelated columns of s draws have a squared covariance of this size by chance.
        chance = (share * centred**2).sum(axis=0)[:, None] * predicted_variance / len(members)
        explained = np.maximum(covariance**2 - chance, 0.0) / (predicted_variance + noise_variance)
        gain += (doubt.width * curvature) @ explained
    return gain


@dataclass(frozen=True)
class AlternativeInputs:
    """What the alternative acquisitions look at.

    Args:
        mean: each of s laws' predictions, shape (s, m).
        sd: their deviations, shape (s, m).
        shares: weight of each law, shape (s,).
        flops: cost of each run, shape (m,).
        front: the front so far.
        threshold: an improvement below this loss counts as none.
        lowest_loss: of all runs.
        budget_flops: of the whole search.
        front_distance: distance to the nearest run on the front in the unit cube, shape (m,).
    """

    mean: np.ndarray
    sd: np.ndarray
    shares: np.ndarray
    flops: np.ndarray
    front: FrontLevels
    threshold: float
    lowest_loss: float
    budget_flops: float
    front_distance: np.ndarray


def alternative_score(name: str, at: AlternativeInputs) -> np.ndarray:
    """Log scores, shape (m,), of acquisitions kept for comparison; larger is better.

    `front_gain`: the front's expected gain, whatever it costs. `ei_front`: improvement on the front at the
    run's own cost. `ei_per_cost`: improvement on the lowest loss by cost (Snoek et al. 2012). `gittins`:
    Pandora's box. `carbs_local`: CARBS's factor for staying near the front (arXiv 2306.08055).
    """
    log_cost = np.log10(at.flops)
    level = at.front.at(log_cost)
    if name == "gittins":
        unit = (at.front.levels[0] - at.front.levels[-1]) / at.budget_flops
        return -gittins_index(at.mean - level, at.sd, at.shares, unit * at.flops)
    if name == "front_gain":
        score = at.shares @ expected_front_gain(at.mean, at.sd, log_cost, at.front, at.threshold)
    elif name == "ei_per_cost":
        score = at.shares @ expected_improvement(at.mean, at.sd, at.lowest_loss) / at.flops
    else:
        score = at.shares @ expected_improvement(at.mean, at.sd, level - at.threshold)
    if name == "carbs_local":
        score = score * np.exp(-0.5 * (at.front_distance / 0.3) ** 2)
    return np.log(np.maximum(score, 1e-300))
