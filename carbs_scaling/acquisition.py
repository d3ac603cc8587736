"""What a run is worth: the expected gain of the front, per FLOP.

With the cost of a run known, the expected growth of the hypervolume in (log10 FLOPs, loss) is a
one-dimensional integral of expected improvement along the front at and above the run's cost (Emmerich et al.
2011 with one certain coordinate).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from carbs_scaling.frontier import pareto_front


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
