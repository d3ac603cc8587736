"""What a fitted law cannot be trusted with, one line each."""

import numpy as np

from carbs_scaling.laws.form.law import INDEX, ROLES
from carbs_scaling.laws.runs.table import RunTable, cells_of
from carbs_scaling.laws.scaling_law import ScalingLaw

NOT_IDENTIFIED = 0.75  # posterior over prior standard deviation above which an exponent is not identified
EXPONENTS = {
    "ln_alpha": "of the loss in N",
    "ln_beta": "of the loss in D",
    "a_N": "of the learning rate in N",
    "a_D": "of the learning rate in D",
    "b_N": "of the batch in N",
    "b_D": "of the batch in D",
}
ON_ONE_LINE = 0.98  # correlation of ln N and ln D from which they cannot be told apart
ROLE = {"a": "learning_rate", "b": "batch_tokens"}  # by how their exponents' names begin
FEW_RUNS = 12  # of fewer, drawn from a known law, the loss lay inside its 90% interval about half the time
EDGE_SHARE = 1 / 3  # of cells whose best run lies on the edge of their sweep, above which a warning says so


def exponents_of(law: ScalingLaw) -> dict[str, str]:
    """What the law's exponents are of, by parameter: not of what the runs had only one of, or by a rule."""
    unsearched = {*law.support.by_rule, *(("batch_tokens",) if law.support.one_batch else ())}
    known = {name: what for name, what in EXPONENTS.items() if ROLE.get(name[0]) not in unsearched}
    single = [" in N"] * law.support.one_size + [" in D"] * law.support.one_token_count
    return {name: what for name, what in known.items() if not what.endswith(tuple(single))}


def not_identified(law: ScalingLaw, prior_sd: np.ndarray) -> dict[str, tuple[str, ...]]:
    """By `N` and `D`, what has an exponent in it that is the prior's; `prior_sd` is of `law.NAMES`, (19,)."""
    unknown = [
        what.removeprefix("of the ")
        for name, what in exponents_of(law).items()
        if law.standard_error(name) > NOT_IDENTIFIED * prior_sd[INDEX[name]]
    ]
    return {
        axis: tuple(w.removesuffix(f" in {axis}") for w in unknown if w.endswith(f" in {axis}"))
        for axis in "ND"
    }


def warnings_of(law: ScalingLaw, table: RunTable, converged: bool) -> list[str]:
    """What may change a decision about any target, one line each, each with what to do; gravest first.

    What only targets beyond the runs suffer from is for `ScalingLaw.recommend` to say.
    """
    said = []
    if not converged:
        said.append("the fit did not come to rest: compare its recipe with a published law before you use it")
    if table.one_size:
        said.append(
            f"all runs had {np.median(table.params):.4g} parameters: what larger and smaller models bring, "
            "and so the compute-optimal split, is the prior's; ask for targets of this N"
        )
    elif table.one_token_count:
        said.append(
            f"all runs had {np.median(table.tokens):.4g} tokens: what more or fewer bring, and so the "
            "compute-optimal split, is the prior's; ask for targets of as many"
        )
    elif abs(np.corrcoef(table.logs[:, 0], table.logs[:, 1])[0, 1]) > ON_ONE_LINE:
        said.append(
            "N and D rise together in these runs: what each does by itself, and the compute-optimal split, "
            "are the prior's; ask for targets along that line"
        )
    absent = [name for name, there in zip(ROLES, table.has_role, strict=True) if not there]
    said += _of_rules(law, table, absent)
    for name, role in (("learning_rate", 2), ("batch_tokens", 3)):
        low, high = _edge_share(table, role)
        if max(low, high) > EDGE_SHARE:
            side = "lower" if low >= high else "upper"
            said.append(
                f"the best {name} lies on the {side} edge of the sweep in {max(low, high):.0%} of the swept "
                "cells: widen it"
            )
    if absent:
        said.append(f"these runs have no {' and no '.join(absent)}: none is recommended")
    if table.one_batch and table.has_role[3]:
        said.append(
            f"all runs had a batch of {np.median(table.batch_tokens):.4g} tokens: the learning rate is for "
            "that, and nothing is said of the best batch"
        )
    if len(table) < FEW_RUNS:
        said.append(
            f"{len(table)} runs fit almost any law: the interval of the loss is narrower than it should be; "
            f"train {FEW_RUNS - len(table)} more"
        )
    return said


def _of_rules(law: ScalingLaw, table: RunTable, absent: list[str]) -> list[str]:
    """What a rate or a batch that nobody searched means."""
    by_rule = [name for name in law.support.by_rule if name not in absent]
    if by_rule == ["learning_rate"] and table.one_rate:
        return [
            f"all runs had a learning_rate of {np.median(table.learning_rate):.4g}: it is recommended with "
            "the loss that it brings; of better ones these runs say nothing: try three rates at two sizes"
        ]
    if not by_rule:
        return []
    follows = "follows" if len(by_rule) == 1 else "follow"
    return [
        f"the {' and the '.join(by_rule)} of the runs {follows} from the rest by a rule: what is recommended "
        "is that rule, with the loss that it brings; of better ones these runs say nothing: try three at two "
        "sizes"
    ]


def _edge_share(table: RunTable, role: int) -> tuple[float, float]:
    low = high = swept = 0
    for cell in cells_of(table):
        if len(cell) < 3:
            continue
        values = table.logs[cell, role]
        if len(np.unique(np.round(values, 3))) < 3:
            continue
        best = values[np.argmin(table.loss[cell])]
        swept += 1
        low += bool(best <= values.min() + 1e-6)
        high += bool(best >= values.max() - 1e-6)
    return (low / swept, high / swept) if swept >= 3 else (0.0, 0.0)
