"""Learning rates and batches that nobody searched: they follow from N, D and the rest by a rule.

IsoFLOP tables are like that: one run a cell, its rate by a formula of width and batch. Such runs cannot tell
a valley from a floor, and a fit that is free to try will explain the losses by a best batch that lies a
decade off, with a loss there that no run has seen. So the law of such a table is that of its rule: what it
predicts is the loss of recipes by that rule, and what it recommends is the rule.
"""

from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.runs.table import RunTable

BY_RULE = 0.2  # nepers about a smooth function of the rest within which nothing was searched
# The same for batches where the rates follow a rule: powers of two are that far off any smooth one.
BATCH_BY_RULE = 0.5
CURVED_FROM = 30  # runs from which the smooth function may be of second order


@dataclass(frozen=True)
class Rules:
    """The rules of a table; None where there is none.

    Args:
        rate: ln learning rate = c + c_N n + c_D d + c_B b, all logs centred on the runs, shape (4,).
        batch: ln batch = c + c_N n + c_D d, shape (3,).
    """

    rate: np.ndarray | None = None
    batch: np.ndarray | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What follows a rule, as the table's columns are called."""
        rules = {"learning_rate": self.rate, "batch_tokens": self.batch}
        return tuple(name for name, rule in rules.items() if rule is not None)


def rules_of(table: RunTable) -> Rules:
    """What the learning rates and the batches of a table follow from."""
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
    return np.linalg.lstsq(np.stack(columns, axis=-1), values, rcond=None)[0]


def _left_over(values: np.ndarray, columns: list[np.ndarray], curved: list[np.ndarray]) -> float:
    """Standard deviation about the best smooth function; infinite where a few runs cannot show one."""
    if len(values) >= CURVED_FROM:
        columns = [*columns, *curved]
    if len(values) <= 2 * len(columns):
        return np.inf
    return float(np.std(values - np.stack(columns, axis=-1) @ _weights(values, columns)))
