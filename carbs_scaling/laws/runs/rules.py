"""Learning rates and batches that follow from N and D by a rule, so that they were not searched.

IsoFLOP tables are like that: one run a cell, its rate by a formula of width and batch. Such runs do not
identify a valley: a fit with one may put the best batch a decade away, at a loss that no run has seen. So the
law of such a table recommends the rule, and predicts the loss of recipes by the rule.

A rule is one value, a power of N, D and batch, or steps: a rate for each bucket of N, D, 6 N D or batch.
A few rows off it do not make a search of it, but a sweep at one size does: it says where the best rate lies.
"""

from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.runs.table import MIN_VARIATION, RunTable

# Standard deviation of ln(lr) or ln(B) about a smooth function of N and D below which it is a rule. Sweeps
# have .39 and more, the default search .21 to .55, the IsoFLOP table of benchmarks/laws_isoflop.py .02.
BY_RULE = 0.1
# The same where the runs furthest off are left out first. A search spends most of its runs near the best
# rates that it knows: seven eighths of the default search lie within .14 to .17.
MOST_BY_RULE = 0.05
ODD = 0.6  # difference in ln(lr) from the rule of most runs above which a run is off it
# The same for batches where the rates follow a rule: powers of two scatter that much about any smooth rule.
BATCH_BY_RULE = 0.5
CURVED_FROM = 30  # runs from which the smooth function may be of second order
# Share of the runs that may be off a rule: a slip, or a try at one size. Of a sweep most are off any rule.
OFF_RULE = 1 / 8
# Of two rates by chance, 12 runs in order have at most one change with probability .006, 16 at most two with
# .004.
STEPS_FROM, ONE_MORE_FROM = 12, 16
RUNS_A_STEP = 4
# Rates off the rule at one size that make a sweep of it: the rule's own is the fourth. Slips are one or two.
SWEPT = 3
# A direction of N, D and batch in which runs spread less than this share of their widest spread has no power:
# where D is 20 N but for rounding, the power of D / N would be that of the rounding.
TOLD_APART = 0.02
ALIKE = 0.01  # difference in logs below which rates, and sizes, count as equal


@dataclass(frozen=True)
class Rules:
    """The rules of a table; None for what was searched.

    Args:
        rate: ln learning rate = c + c_N n + c_D d + c_B b, all logs centred on the runs, shape (4,).
        batch: ln batch = c + c_N n + c_D d, shape (3,).
        odd: marks runs whose rate is off the rule while others of their size are on it, shape (n,); None
            without such runs.
    """

    rate: np.ndarray | None = None
    batch: np.ndarray | None = None
    odd: np.ndarray | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the table that follow a rule."""
        rules = {"learning_rate": self.rate, "batch_tokens": self.batch}
        return tuple(name for name, rule in rules.items() if rule is not None)


def rules_of(table: RunTable) -> Rules:
    """Find the rules that the learning rates and the batches of a table follow."""
    if not table.has_role[2]:
        return Rules()
    n, d, rate, batch = (table.logs - table.logs.mean(axis=0)).T
    ones = np.ones(len(table))
    sizes, curved = [ones, n, d], [n * n, n * d, d * d]
    follows = [ones, n, d, batch]
    if table.one_batch:
        follows, of_batch = [ones, n, d, 0 * ones], np.inf
    else:
        of_batch = _left_over(batch, sizes, curved)
    rate_rule, odd = (
        _one_value(rate) or _smooth(rate, follows, curved) or _steps(rate, n, d, batch) or (None, None)
    )
    if odd is not None and _a_sweep(odd, rate, n):
        rate_rule = odd = None
    odd = None if odd is None else _by_themselves(odd, n)
    enough = BY_RULE if rate_rule is None else BATCH_BY_RULE
    return Rules(rate_rule, _weights(batch, sizes) if of_batch < enough else None, odd)


def _a_sweep(odd: np.ndarray, rate: np.ndarray, n: np.ndarray) -> bool:
    """Whether some size was swept by the marked runs."""
    tried = np.unique(np.round(np.stack([n, rate], axis=-1)[odd] / ALIKE), axis=0)
    return bool(np.unique(tried[:, 0], return_counts=True)[1].max() >= SWEPT)


def _by_themselves(odd: np.ndarray, n: np.ndarray) -> np.ndarray | None:
    """Those of the marked runs whose size has others: a whole size with a rate of its own stays."""
    size = np.round(n / ALIKE)
    alone = odd & np.isin(size, size[~odd])
    return alone if alone.any() else None


Found = tuple[np.ndarray, np.ndarray | None]


def _one_value(rate: np.ndarray) -> Found | None:
    """The rate that nearly all runs have, and which have another."""
    odd = np.abs(rate - _commonest(rate)) > MIN_VARIATION / 2
    if odd.mean() > OFF_RULE:
        return None
    return np.array([rate[~odd].mean(), 0.0, 0.0, 0.0]), odd if odd.any() else None


def _smooth(rate: np.ndarray, follows: list[np.ndarray], curved: list[np.ndarray]) -> Found | None:
    """A power of N, D and batch; once more without the runs furthest off it."""
    if _left_over(rate, follows, curved) < BY_RULE:
        return _weights(rate, follows), None
    columns = np.stack(follows, axis=-1)
    off = np.abs(rate - columns @ _least_absolute(rate, follows))
    kept = off <= np.quantile(off, 1 - OFF_RULE)
    rest = [column[kept] for column in follows]
    of_few = np.sqrt(kept.sum() / max(kept.sum() - len(rest), 1))
    if _left_over(rate[kept], rest, []) * of_few >= MOST_BY_RULE:
        return None
    weights = _weights(rate[kept], rest)
    odd = np.abs(rate - columns @ weights) > ODD
    return weights, odd if odd.any() else None


def _steps(rate: np.ndarray, n: np.ndarray, d: np.ndarray, batch: np.ndarray) -> Found | None:
    """A rate for each bucket; the power of what the buckets are of that is nearest to most runs."""
    places = np.unique(np.round(rate / ALIKE), return_inverse=True)[1].reshape(-1)
    if len(rate) < STEPS_FROM:
        return None
    zero, one = np.zeros(len(rate)), np.ones(len(rate))
    both = n + d  # ln of 6 N D
    buckets = (
        (n, [n, zero, zero]),
        (d, [zero, d, zero]),
        (batch, [zero, zero, batch]),
        (both, [both, zero, zero]),
    )
    for by, of_bucket in buckets:
        columns = [one, *of_bucket]
        bucket = np.unique(np.round(by / ALIKE), return_inverse=True)[1].reshape(-1)
        common = np.array([np.bincount(places[bucket == i]).argmax() for i in range(bucket.max() + 1)])
        odd, levels = places != common[bucket], len(np.unique(common))
        changes = int((np.diff(common) != 0).sum())
        allowed = levels - 1 + (len(rate) >= ONE_MORE_FROM)
        if odd.mean() <= OFF_RULE and changes <= allowed and len(rate) >= RUNS_A_STEP * levels:
            weights = _least_absolute(rate[~odd], [column[~odd] for column in columns])
            if by is both:
                weights[2] = weights[1]
            return weights, odd if odd.any() else None
    return None


def _commonest(values: np.ndarray) -> float:
    distinct, counts = np.unique(np.round(values / ALIKE), return_counts=True)
    return float(distinct[counts.argmax()] * ALIKE)


def _least_absolute(values: np.ndarray, columns: list[np.ndarray], turns: int = 100) -> np.ndarray:
    """Weights of least absolute deviations: a few values far off do not move them."""
    matrix, weights = np.stack(columns, axis=-1), np.ones(len(values))
    for _ in range(turns):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(root[:, None] * matrix, root * values, rcond=TOLD_APART)[0]
        weights = 1 / np.maximum(np.abs(values - matrix @ found), 1e-4)
    return np.asarray(found)


def _weights(values: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.linalg.lstsq(np.stack(columns, axis=-1), values, rcond=TOLD_APART)[0])


def _left_over(values: np.ndarray, columns: list[np.ndarray], curved: list[np.ndarray]) -> float:
    """Standard deviation about the best smooth function; infinite with too few runs to fit one."""
    if len(values) >= CURVED_FROM:
        columns = [*columns, *curved]
    if len(values) <= 2 * len(columns):
        return np.inf
    return float(np.std(values - np.stack(columns, axis=-1) @ _weights(values, columns)))
