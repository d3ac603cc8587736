"""Which column of a table is what: names that people use, and the caller's word where it cannot be told.

A name may stand in any case, with blanks, in `config.` or `summary.`, and with a unit such as `params (M)`.
What more than one column may be is refused in a line that names the override.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from carbs_scaling.formula import Formula
from carbs_scaling.laws.runs.files import without_half
from carbs_scaling.laws.runs.table import REQUIRED, SEARCHED, LawArgumentError, LawError

if TYPE_CHECKING:
    import pandas as pd

OPTIONAL = ("depth", "width", *SEARCHED, "seed", "optimizer", "diverged", "unique_tokens", "epochs")
# Their own names come first. `total_params` is none of N's: N counts no embeddings.
ALIASES = {
    "params": "n_params num_params parameters n_parameters num_parameters model_params model_size "
    "non_embedding_params non_embedding_parameters n_params_non_embedding params_non_embedding "
    "num_non_embedding_params",
    "tokens": "n_tokens num_tokens train_tokens training_tokens tokens_seen total_tokens "
    "num_train_tokens tokens_trained",
    "learning_rate": "lr peak_lr max_lr peak_learning_rate max_learning_rate base_lr",
    "batch_tokens": "batch_size_tokens batch_size_in_tokens tokens_per_batch tokens_per_step "
    "global_batch_tokens batch_in_tokens",
    "loss": "val_loss valid_loss validation_loss eval_loss test_loss final_loss final_val_loss loss_val "
    "final_eval_loss final_validation_loss",
    "weight_decay": "wd",
    "depth": "n_layer n_layers num_layers num_hidden_layers layers",
    "width": "d_model n_embd hidden_size hidden_dim",
    "beta2": "adam_beta2",
    "momentum": "beta1 adam_beta1",
    "epsilon": "eps adam_eps adam_epsilon",
    "warmup_fraction": "warmup_ratio",
    "optimizer": "optim optimizer_name",
    "diverged": "is_diverged",
    "unique_tokens": "dataset_tokens text_tokens",
    "epochs": "num_epochs num_train_epochs",
}
LETTERS = {"params": "N", "tokens": "D"}  # as they stand
NAMES = {role: (role, *names.split()) for role, names in ALIASES.items()}
TRAINING_LOSSES = (
    "train_loss",
    "training_loss",
    "final_train_loss",
    "smooth_loss",
)  # where there is no other
SEQUENCES = ("batch_size", "global_batch_size", "train_batch_size", "batch_sequences", "sequences_per_batch",
             "batch_size_sequences", "bs", "batch")  # fmt: skip
LENGTHS = ("sequence_length", "seq_len", "seq_length", "context_length", "context", "block_size", "n_ctx",
           "ctx_len", "max_seq_len", "max_sequence_length")  # fmt: skip
STEPS = ("steps", "n_steps", "num_steps", "max_steps", "train_steps", "total_steps", "iterations")
# With one of these other than 1, a batch size may be that of a device.
SPLITS = ("gradient_accumulation_steps", "grad_accum", "grad_accum_steps", "accumulation_steps", "num_gpus",
          "n_gpus", "world_size", "num_devices")  # fmt: skip
COUNTS = ("params", "tokens", "batch_tokens")
LARGEST_BATCH = 2.0**26  # tokens a step; sequences times length above it were tokens already
UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
UNITS |= {"thousand": 1e3, "thousands": 1e3, "million": 1e6, "millions": 1e6}
UNITS |= {"billion": 1e9, "billions": 1e9, "trillion": 1e12, "trillions": 1e12}
THOUSANDS = "[,_'\u2019 \u00a0\u2009\u202f]"  # what stands between them
NUMBER = re.compile(
    rf"\s*(\d[\d_]*(?:{THOUSANDS}\d{{3}})*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kmbt]?)\s*", re.IGNORECASE
)
# The last loss of a run that did not end is not that of its tokens; in words of W&B, Optuna and others.
STATES = ("state", "status", "run_state")
UNFINISHED = ("crashed", "failed", "fail", "killed", "running", "preempted", "preempting", "pending",
              "pruned", "waiting", "canceled", "cancelled", "timeout", "oom", "error", "aborted")  # fmt: skip
PERPLEXITY = "ppl|perplexity"
# What other columns give, by words of their names: how the caller says so.
HINTS = (
    ("loss", PERPLEXITY, "columns.loss='log({0})' turns perplexity into nats"),
    ("loss", r"bpb|bpc|bits", "columns.loss={0} takes bits as they are"),
    ("tokens", r"flops?|compute", "columns.tokens='{0} / (6 * {params})' if {0} are 6 N D"),
    ("tokens", r"tpp|tokens_per_param\w*", "columns.tokens='{0} * {params}' if {0} is D / N"),
    ("params", r"total_params|total_parameters|params_total", "{0} counts embeddings, N does not: "
     "columns.params='{0} - VOCABULARY * WIDTH' takes them off"),
    ("batch_tokens", r"", "columns.batch_tokens=524288 if all runs had one batch, of so many tokens"),
)  # fmt: skip


def with_roles(
    frame: "pd.DataFrame", source: str, columns: Mapping[str, Any] | None = None
) -> tuple["pd.DataFrame", tuple[str, ...]]:
    """The table with the columns that a law reads under their own names.

    Args:
        frame: of any columns.
        source: name of the table, for messages.
        columns: by name of the law's column (or `sequence_length`, tokens), where it stands: a column, a
            formula of columns such as `batch_size * 2048`, or a number.

    Returns:
        The table, and a line such as `batch_tokens = batch_size * seq_len` for each column that has another
        name there.

    Raises:
        LawError: a column that may be two things, one of `columns` that is not there, or no number where one
            must be.
    """
    return _Reading(frame, source, dict(columns or {})).result()


def hints(frame: "pd.DataFrame", missing: Sequence[str]) -> list[str]:
    """Overrides that may give what a table lacks, read off the names that it has.

    Args:
        frame: as it was before `with_roles`.
        missing: required columns that it lacks.
    """
    names = [_normal(without_half(str(name))) for name in frame.columns]
    params = next((name for name in names if name in NAMES["params"]), "params")
    said = []
    for role, words, hint in HINTS:
        alike = [name for name in names if re.search(rf"(^|_)({words})(_|$)", name)]
        if role in missing and alike and (role != "tokens" or "params" not in missing):
            said.append(hint.format(alike[0], params=params))
    return said


class _Reading:
    """The columns of one table, as they are found."""

    def __init__(self, frame: "pd.DataFrame", source: str, columns: dict[str, Any]) -> None:
        frame = frame.rename(columns=lambda name: str(name).strip())
        twice = frame.columns[frame.columns.duplicated()]
        if wrong := [name for name in twice if _normal(without_half(name)) in (*REQUIRED, *OPTIONAL)]:
            raise LawArgumentError(f"{source} has the column {wrong[0]} twice: keep one")
        self.frame = frame.loc[:, ~frame.columns.duplicated()]
        self.source = source
        self.names = {name: _normal(without_half(name)) for name in self.frame.columns}
        self.found: dict[str, tuple[str, Any]] = {}  # by role: how it reads there, its values
        self.columns = columns

    def result(self) -> tuple["pd.DataFrame", tuple[str, ...]]:
        known = (*REQUIRED, *OPTIONAL, "sequence_length")
        if unknown := [name for name in self.columns if name not in known]:
            raise LawArgumentError(f"columns.{unknown[0]} is not one of {', '.join(known)}")
        for role, given in self.columns.items():
            self.found[role] = self._given(role, given)
        for role in dict.fromkeys((*REQUIRED, *NAMES)):
            if role not in self.found:
                self._find(role)
        if "batch_tokens" not in self.found:
            self._batch_of_sequences()
        if "tokens" not in self.found and "batch_tokens" in self.found:
            self._tokens_of_steps()
        read = {role: found for role, found in self.found.items() if role != "sequence_length"}
        values = {
            role: self._numbers(role, column) if role in COUNTS else column
            for role, (how, column) in read.items()
            if how != role or role in COUNTS
        }
        said = [f"{role} = {how}" for role, (how, _) in read.items() if how != role]
        if "loss" in read:
            values["loss"] = _without_words(read["loss"][1])
            said += self._leave_out_unfinished(values)
        return self.frame.assign(**values), tuple(said)

    def _leave_out_unfinished(self, values: dict[str, Any]) -> list[str]:
        """Take the loss from runs whose state says that they did not end; say how many they are."""
        import pandas as pd

        for name, normal in self.names.items():
            if normal not in STATES:
                continue
            states = self.frame[name].astype(str).str.strip().str.lower()
            unfinished = states.isin(UNFINISHED).to_numpy()
            if unfinished.any():
                values["loss"] = pd.Series(np.asarray(values["loss"])).mask(unfinished).to_numpy()
                kinds = ", ".join(sorted(set(states[unfinished])))
                return [f"{unfinished.sum()} not finished ({name}: {kinds}): left out"]
        return []

    def _given(self, role: str, given: Any) -> tuple[str, Any]:
        """What the caller says of a column.

        Raises:
            LawArgumentError: there is no such column, or its loss is a perplexity.
        """
        try:
            return str(given), np.full(len(self.frame), float(given))
        except (TypeError, ValueError):
            text = str(given).strip()
        alike = [name for name, normal in self.names.items() if normal == _normal(text)]
        if text in self.names or (alike and re.fullmatch(r"[\w ./]+", text)):
            name = text if text in self.names else alike[0]
            if role == "loss" and re.search(rf"(^|_)({PERPLEXITY})(_|$)", self.names[name]):
                raise LawArgumentError(f"{name} is a perplexity: say columns.loss='log({self.names[name]})'")
            return name, self.frame[name]
        if re.fullmatch(r"[\w./]+", text):
            raise LawArgumentError(
                f"{self.source} has no column {text} (columns.{role}): it has {', '.join(self.names)}"
            )
        by_name = {short: name for name, normal in self.names.items() for short in (normal, name)}
        plain = text
        for name in sorted(self.names, key=len, reverse=True):
            if not name.isidentifier() and self.names[name].isidentifier():
                plain = plain.replace(name, self.names[name])
        formula = Formula(plain, f"columns.{role}").require_names(frozenset(by_name))
        read = [self._numbers(short, _without_words(self.frame[by_name[short]])) for short in formula.names]
        # A run that failed may lack what the formula reads, and then lacks what it gives.
        rows = np.stack(read, axis=-1) if read else np.empty((len(self.frame), 0))
        return text, np.array(
            [
                formula.number(dict(zip(formula.names, row.tolist(), strict=True)))
                if np.isfinite(row).all()
                else np.nan
                for row in rows
            ]
        )

    def _matching(self, names: tuple[str, ...]) -> list[tuple[str, float]]:
        """Columns of one of the names, each with its unit; of a nested name the last parts count too."""
        matches = []
        for name, normal in self.names.items():
            parts = re.split(r"[./]", name)
            tails = (_normal(".".join(parts[at:])) for at in range(1, len(parts)))
            for candidate in dict.fromkeys((normal, *tails)):
                if candidate in TRAINING_LOSSES and names is not TRAINING_LOSSES:
                    break  # `train/loss` is no `loss`
                stem, _, unit = candidate.rpartition("_")
                if candidate in names or name == LETTERS.get(names[0]):
                    matches.append((name, 1.0))
                elif stem in names and unit in UNITS and names[0] in COUNTS:
                    matches.append((name, UNITS[unit]))
                else:
                    continue
                break
        return matches

    def _find(self, role: str) -> None:
        matches = self._matching(NAMES[role])
        if role == "loss" and not matches:
            matches = self._matching(TRAINING_LOSSES)
        if role != "loss":  # beside a validation loss, `loss` may be the one of training
            matches = [match for match in matches if match[0] == role] or matches
        if len(matches) > 1:
            matches = self._one_of(role, matches)
        for name, unit in matches[:1]:
            column = self.frame[name]
            self.found[role] = (
                (name, column) if unit == 1 else (f"{name} x {unit:g}", unit * self._numbers(name, column))
            )

    def _one_of(self, role: str, matches: list[tuple[str, float]]) -> list[tuple[str, float]]:
        """The first, where all hold the same numbers; none of them where the role is optional.

        Raises:
            LawArgumentError: which of them is meant cannot be told.
        """
        if role not in REQUIRED:
            return [match for match in matches if match[0] == role]
        if self._alike([unit * self._numbers(name, self.frame[name]) for name, unit in matches]):
            return matches
        names = [name for name, _ in matches]
        raise LawArgumentError(
            f"{self.source} has {' and '.join(names)}: say which is the {role}, as by "
            f"columns.{role}={names[-1]}"
        )

    @staticmethod
    def _alike(columns: list[np.ndarray]) -> bool:
        return all(np.allclose(columns[0], other, rtol=1e-6, equal_nan=True) for other in columns[1:])

    def _batch_of_sequences(self) -> None:
        """Sequences times their length.

        Raises:
            LawArgumentError: the unit of the batch cannot be told.
        """
        if not (matches := self._matching(SEQUENCES)):
            return
        name = matches[0][0]
        instead = f"say columns.batch_tokens={name}, or columns.batch_tokens='{name} * 2048' for sequences"
        if len(matches) > 1:
            raise LawArgumentError(f"{self.source} has {name} and {matches[1][0]}: {instead}")
        if split := [other for other, _ in self._matching(SPLITS) if (self.frame[other] != 1).any()]:
            raise LawArgumentError(f"{self.source} has {name} and {split[0]}, which may split it: {instead}")
        lengths = [(other, self.frame[other]) for other, _ in self._matching(LENGTHS)]
        if "sequence_length" in self.found:
            lengths = [self.found["sequence_length"]]
        if not lengths:
            raise LawArgumentError(
                f"{self.source}: {name} may count tokens or sequences, and no column has a sequence length: "
                f"{instead}"
            )
        factors = [self._numbers(*length) for length in lengths]
        tokens = self._numbers(name, self.frame[name]) * factors[0]
        if not self._alike(factors) or np.nanmax(tokens, initial=0) > LARGEST_BATCH:
            raise LawArgumentError(f"{self.source}: {name} may count tokens or sequences: {instead}")
        self.found["batch_tokens"] = (f"{name} * {lengths[0][0]}", tokens)

    def _tokens_of_steps(self) -> None:
        matches = self._matching(STEPS)
        if len(matches) == 1:
            name, (how, batch) = matches[0][0], self.found["batch_tokens"]
            steps = self._numbers(name, self.frame[name])
            self.found["tokens"] = (f"{name} * {how}", steps * self._numbers("batch_tokens", batch))

    def _numbers(self, name: str, column: Any) -> np.ndarray:
        """Numbers, also of texts such as `125M` and `1,000,000`, shape (n,); NaN where a cell is empty.

        Raises:
            LawError: a text that is none.
        """
        import pandas as pd

        cells = pd.Series(np.asarray(column))
        numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float, copy=True)
        for at in np.flatnonzero(np.isnan(numbers) & cells.notna().to_numpy()):
            match = NUMBER.fullmatch(str(cells[at]))
            if match is None:
                raise LawError(f"{self.source}: {name} holds {cells[at]!r}, which is no number")
            digits = re.sub(THOUSANDS, "", match[1])
            numbers[at] = float(digits) * UNITS.get(match[2].lower(), 1.0)
        return np.asarray(numbers)


def _without_words(column: Any) -> np.ndarray:
    """A column with empty cells for words such as `-` and `diverged`; as it is where all cells are words."""
    import pandas as pd

    cells = pd.Series(np.asarray(column))
    words = np.array(
        [isinstance(cell, str) and not re.search(r"\d|^[+-]?inf", cell.strip(), re.I) for cell in cells], bool
    )
    return cells.mask(words).to_numpy() if words.any() and not words.all() else cells.to_numpy()


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
