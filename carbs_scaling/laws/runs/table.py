"""Checked runs of one optimizer as arrays."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from carbs_scaling.errors import CarbsScalingError, ConfigError

REQUIRED = ("params", "tokens", "learning_rate", "batch_tokens", "loss")
# Each has a law of its own where the runs vary it.
SEARCHED = ("beta2", "momentum", "weight_decay", "epsilon", "warmup_fraction", "adamw_rate_ratio")
MAY_BE_0 = ("weight_decay", "warmup_fraction")
# Below these, counts can only be in another unit: millions of parameters, billions of tokens.
MIN_PARAMS, MIN_TOKENS = 500.0, 2_000.0
IN_BILLIONS = 500.0  # a target below it, of parameters or tokens, is one in millions or billions
MAX_NUMBER = 1e60  # larger targets overflow the powers of a law
MIN_RUNS = 8  # with fewer, the posterior of most parameters equals the prior
MIN_VARIATION = 0.05  # range of a logarithm below which a quantity counts as not varied


class LawError(CarbsScalingError):
    """Runs that give no law, or a law that cannot answer; the message says why."""


class LawArgumentError(LawError, ConfigError):
    """An argument that cannot be, or that names a file, a column, an optimizer or a law that is not there."""


def positive_number(value: Any, name: str) -> float:
    """Convert a value that a user gave to a float.

    Raises:
        LawError: it is no positive number, or 1e60 or more.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not 0 < number < MAX_NUMBER:
        raise LawArgumentError(
            f"{name}={value!r} must be a positive number" + (", below 1e60" if number > 0 else "")
        )
    return number


def whole_count(value: Any, name: str) -> float:
    """Convert N or D that a user gave to a float.

    Raises:
        LawError: it is no positive number, or so small that it must be in millions or billions.
    """
    number = positive_number(value, name)
    if number < IN_BILLIONS:
        what = "parameters" if name.endswith("params") else "tokens"
        raise LawArgumentError(
            f"{name}={number:g} means {number:g} {what}: for billions write {name}={number:g}e9"
        )
    return number


@dataclass(frozen=True)
class RunTable:
    """Checked completed runs of one optimizer.

    Args:
        params: non-embedding parameters N, shape (n,).
        tokens: training tokens D, shape (n,).
        learning_rate: peak learning rates, shape (n,).
        batch_tokens: tokens a step, shape (n,).
        loss: final losses, shape (n,).
        depth: blocks, shape (n,); None where the table has none.
        width: residual width, shape (n,); None where the table has none.
        beta2: decay of Adam's second moment, shape (n,); None where the table has none. So too the next two.
        momentum: of SGD, or beta1 of Adam, shape (n,).
        weight_decay: shape (n,); 0 in a run without.
        epsilon: of Adam's denominator, shape (n,).
        warmup_fraction: share of the steps, shape (n,); 0 in a run without.
        adamw_rate_ratio: rate of what Muon leaves to AdamW over Muon's, shape (n,).
        optimizer: its name; empty where the table names none.
        diverged: number of runs left out because they diverged, collapsed or have no finite loss.
        source: name of the table, for reports.
        diverged_logs: ln N, ln D, ln learning rate, ln batch of runs that diverged, shape (m, 4).
        collapsed: number of `diverged` with a finite loss (`carbs_scaling.laws.runs.collapse`).
        has_role: whether runs have N, D, a learning rate, and a batch.
        again: number of rows left out because another is the same in every column.
        parametrization: `standard`, `mup` or `completep`.
        base_params: N of the shape at which the parametrization is as standard.
        finetuned_width: hidden size of the model that was trained further; None for models from scratch.
        adapters: whether adapters were trained beside it.
        read_as: a line such as `loss = val_loss` for each column that has another name in the table.
        off_rule: number of runs left out because their rate alone is off the rule of all others.
        far: number of runs left out because they lie far from the best size of their budget (`isoflop`).
        repeated: number of runs that saw their text more than once; `tokens` are then effective ones.
    """

    params: np.ndarray
    tokens: np.ndarray
    learning_rate: np.ndarray
    batch_tokens: np.ndarray
    loss: np.ndarray
    depth: np.ndarray | None = None
    width: np.ndarray | None = None
    beta2: np.ndarray | None = None
    momentum: np.ndarray | None = None
    weight_decay: np.ndarray | None = None
    epsilon: np.ndarray | None = None
    warmup_fraction: np.ndarray | None = None
    adamw_rate_ratio: np.ndarray | None = None
    optimizer: str = ""
    diverged: int = 0
    source: str = ""
    diverged_logs: np.ndarray | None = None
    collapsed: int = 0
    again: int = 0
    has_role: tuple[bool, bool, bool, bool] = (True, True, True, True)
    parametrization: str = "standard"
    base_params: float | None = None
    finetuned_width: int | None = None
    adapters: bool = False
    read_as: tuple[str, ...] = ()
    off_rule: int = 0
    far: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def rate_arguments(self) -> dict[str, Any]:
        """What the prior of the best rate hangs on, as `laws.prior.rates.rate_prior` takes it."""
        names = ("optimizer", "parametrization", "base_params", "finetuned_width", "adapters")
        return {name: getattr(self, name) for name in names}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Rows of the table that the law does not see as they stand, a line for each reason."""
        counts = (
            (self.again, "the same as another in every column, and counted once"),
            (self.collapsed, "half again above a run of no more parameters and tokens: counted as diverged"),
            (self.off_rule, "of a learning rate off the rule of all others: left out"),
            (self.far, "over four times from the best size of their budget: left out"),
            (self.repeated, "beyond their text: D counts effective tokens (Muennighoff et al. 2023)"),
        )
        return tuple(f"{count} {reason}" for count, reason in counts if count)

    @property
    def flops(self) -> np.ndarray:
        """6 N D of each run, shape (n,)."""
        return np.asarray(6.0 * self.params * self.tokens)

    @cached_property
    def logs(self) -> np.ndarray:
        """ln N, ln D, ln learning rate, ln batch; shape (n, 4)."""
        return np.asarray(np.log(np.stack([getattr(self, name) for name in REQUIRED[:4]], axis=-1)))

    @property
    def one_batch(self) -> bool:
        """Whether all runs had the same batch, so that the best batch is not identified."""
        return bool(np.ptp(np.log(self.batch_tokens)) < MIN_VARIATION)

    @property
    def one_rate(self) -> bool:
        """Whether all runs had the same learning rate."""
        return bool(np.ptp(np.log(self.learning_rate)) < MIN_VARIATION)

    @property
    def one_size(self) -> bool:
        """Whether all runs had the same parameters, so that exponents in N are not identified."""
        return bool(np.ptp(np.log(self.params)) < MIN_VARIATION)

    @property
    def one_token_count(self) -> bool:
        """Whether all runs had the same tokens, so that exponents in D are not identified."""
        return bool(np.ptp(np.log(self.tokens)) < MIN_VARIATION)

    def take(self, keep: np.ndarray) -> "RunTable":
        """Select runs by indices or a mask, and the diverged runs that are no larger than those."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        diverged = values.pop("diverged_logs")
        kept = {k: v[keep] if isinstance(v, np.ndarray) else v for k, v in values.items()}
        if diverged is not None:
            diverged = diverged[diverged[:, 0] <= np.log(kept["params"].max()) + 0.005]
        return RunTable(**kept, diverged_logs=diverged)


def cells_of(table: RunTable) -> list[np.ndarray]:
    """Indices of the runs of each cell (N, D), with logs rounded to 0.01."""
    label = np.unique(np.round(table.logs[:, :2], 2), axis=0, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(label == i) for i in range(label.max() + 1)]
