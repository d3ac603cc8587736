"""Learning rates and batches that follow from N and D by a rule, so that they were not searched.

IsoFLOP tables are like that: one run a cell, its rate by a formula of width and batch. Such runs do not
identify a valley: a fit with one may put the best batch a decade away, at a loss that no run has seen. So the
law of such a table recommends the rule, and predicts the loss of recipes by the rule.
"""

from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.runs.table import RunTable

# Standard deviation of ln(lr) or ln(B) about a smooth function of N and D below which it is a rule. Sweeps
# and searches have .39 and more, the IsoFLOP table of benchmarks/laws_isoflop.py .02.
BY_RULE = 0.2
# The same for batches where the rates follow a rule: powers of two scatter that much about any smooth rule.
BATCH_BY_RULE = 0.5
CURVED_FROM = 30  # runs from which the smooth function may be of second order


@dataclass(frozen=True)
class Rules:
    """The rules of a table; None for what was searched.

    Args:
        rate: ln learning rate = c + c_N n + c_D d + c_B b, all logs centred on the runs, shape (4,).
        batch: ln batch = c + c_N n + c_D d, shape (3,).
    """

    rate: np.ndarray | None = None
    batch: np.ndarray | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the table that follow a rule."""
        rules = {"learning_rate": self.rate, "batch_tokens": self.batch}
        return tuple(name for name, rule in rules.items() if rule is not None)


def rules_of(table: RunTable) -> Rules:
    """Find the rules that the learning rates and the batches of a table follow."""
    n, d, rate, batch = (table.logs - table.logs.mean(axis=0)).T
    ones = np.ones(len(table))
    sizes, curved = [ones, n, d], [n * n, n * d, d * d]
    follows = [ones, n, d, batch]
    if table.one_batch:
        follows, of_batch = [ones, n, d, 0 * ones], np.inf
    else:
        of_batch = _left_over(batch, sizes, curved)
    of_rate = _left_over(rate, follows, curved)
    rate_rule = _weights(rate, follows) if of_rate < BY_RULE else None
    enough = BY_RULE if rate_rule is None else BATCH_BY_RULE
    return Rules(rate_rule, _weights(batch, sizes) if of_batch < enough else None)


def _weights(values: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.linalg.lstsq(np.stack(columns, axis=-1), values, rcond=None)[0])


def _left_over(values: np.ndarray, columns: list[np.ndarray], curved: list[np.ndarray]) -> float:
    """Standard deviation about the best smooth function; infinite with too few runs to fit one."""
    if len(values) >= CURVED_FROM:
        columns = [*columns, *curved]
    if len(values) <= 2 * len(columns):
        return np.inf
    return float(np.std(values - np.stack(columns, axis=-1) @ _weights(values, columns)))
