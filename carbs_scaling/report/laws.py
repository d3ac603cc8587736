"""A fitted law and a recommendation: tables for the terminal, and files for other programs."""

import re
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from carbs_scaling.laws.fit.diagnostics import exponents_of
from carbs_scaling.laws.recommend.advice import Advice
from carbs_scaling.laws.scaling_law import CONVENTION, ScalingLaw
from carbs_scaling.numbers import compact, scientific
from carbs_scaling.verb_config import TargetConfig

LABELS = {"learning_rate": "learning rate (peak)", "batch_tokens": "batch (tokens a step)", "loss": "loss"}
OTHER_LABELS = {
    "weight_decay": "weight decay",
    "beta2": "beta2",
    "momentum": "momentum",
    "epsilon": "epsilon",
    "warmup_fraction": "warmup (share of steps)",
    "adamw_rate_ratio": "AdamW's rate / Muon's",
    "width_to_depth": "width / depth",
}
TRAINER_FIELDS = {
    "weight_decay": "weight_decay",
    "momentum": "adam_beta1",
    "beta2": "adam_beta2",
    "epsilon": "adam_epsilon",
    "warmup_fraction": "warmup_steps",  # below 1 it is a share of the steps
}
# Adam without weight decay is AdamW. The trainer's own `sgd` has no momentum.
TRAINER_OPTIMIZERS = {"adamw": "adamw_torch", "adam": "adamw_torch"}
ROUNDED = 0.05  # relative change of the batch by whole sequences above which a note says so


def number_text(name: str, value: float) -> str:
    """A value of a recipe in few characters."""
    if name in ("loss", "beta2", "momentum"):
        return f"{value:.4f}"
    if name == "width_to_depth":
        return f"{value:.3g}"
    return compact(value) if name == "batch_tokens" else scientific(value, 3)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    return table


def law_report(law: ScalingLaw) -> Group:
    """Formula, exponents with standard errors, goodness of fit, and warnings of a law."""
    support = law.support
    title = Text(
        f"scaling law of {support.source}" + (f" ({law.optimizer})" if law.optimizer else ""), style="bold"
    )
    parts: list[Any] = [title, Text(_runs_line(law)), Text()]
    if support.read_as:
        parts.insert(2, Text(read_line(law), style="dim"))
    parts += [Text(line) for line in (*law.formulas(), *(other.formula() for other in law.others))]
    parts.append(Text(CONVENTION, style="dim"))
    table = _table("exponent", "value", "standard error")
    for name, what in exponents_of(law).items():
        value, error = law.parameter(name), law.standard_error(name)
        if name.startswith("ln_"):
            value, error = float(np.exp(value)), float(np.exp(value)) * error
        quantity, axis = what.removeprefix("of the ").rsplit(" in ", 1)
        unknown = quantity in law.not_identified.get(axis, ())
        table.add_row(what, f"{value:.3f}", f"{error:.3f}{' (prior)' if unknown else ''}")
    for other in law.others:
        for what, value, variance in zip("ND", other.theta[1:3], np.diag(other.covariance)[1:3], strict=True):
            table.add_row(f"of {other.coordinate.label} in {what}", f"{value:.3f}", f"{variance**0.5:.3f}")
    parts.append(table)
    if any(law.not_identified.values()):
        parts.append(Text("(prior): the runs say little of it, and published laws stand in", style="dim"))
    parts.append(Text(held_out_line(law)))
    if law.rates:
        parts.append(Text(f"prior of the rate: {law.rates}"))
    if law.prior:
        parts.append(Text(f"prior: the published exponents of {', '.join(law.prior)}"))
    scatter = f"; scatter between (N, D) {law.spread[0]:.4f}" if law.spread[0] > 0 else ""
    parts.append(
        Text(f"standard deviation of the loss: noise of a run {law.seed_sd:.4f}{scatter}", style="dim")
    )
    parts += [Text(f"warning: {warning}", style="yellow") for warning in law.warnings]
    return Group(*parts)


def _runs_line(law: ScalingLaw) -> str:
    s = law.support
    left_out = f" ({s.diverged} more diverged or have no loss)" if s.diverged else ""
    return (
        f"{s.runs} runs{left_out}, N {_span(s.low[0], s.high[0])}, D {_span(s.low[1], s.high[1])}, "
        f"{scientific(s.total_flops)} FLOPs (6 N D)"
    )


def _span(low: float, high: float) -> str:
    ends = compact(low), compact(high)
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def read_line(law: ScalingLaw) -> str:
    """Which columns of the table were read as what."""
    return f"read: {'; '.join(law.support.read_as)}"


def held_out_line(law: ScalingLaw) -> str:
    """What the law said of the largest sizes, fitted without them."""
    h = law.held_out
    if h is None:
        return "not checked on held-out sizes: that takes at least three sizes"
    regret = "" if h.regret is None else f", recommendations cost {h.regret:.4f} over the best run"
    return (
        f"fitted without N >= {compact(min(h.sizes))} ({h.runs} runs): their losses are off by "
        f"{h.loss_error:.4f} (median), {h.bias:+.4f} near the best{regret}"
    )


def advice_report(law: ScalingLaw, advice: Advice, target: TargetConfig) -> Group:
    """The recommendation beside published laws, how far it extrapolates, and the runs behind it."""
    recipe = advice.recipe
    optimizer = f" with {recipe.optimizer}" if recipe.optimizer else ""
    title = Text(
        f"N = {compact(recipe.params)}, D = {compact(recipe.tokens)}, "
        f"{scientific(recipe.flops, 3)} FLOPs{optimizer}",
        style="bold",
    )
    table = _table("", "recommended", f"{advice.level:.0%} interval")
    if advice.optimal is not None:
        for label, value, (low, high) in (
            ("parameters N (compute-optimal)", advice.optimal.params, advice.optimal.params_interval),
            ("tokens D", advice.optimal.tokens, advice.optimal.tokens_interval),
        ):
            table.add_row(label, compact(value), f"{compact(low)} - {compact(high)}")
    for name, label in LABELS.items():
        if name in advice.lacks:
            continue
        low, high = advice.intervals[name]
        bounds = f"{number_text(name, low)} - {number_text(name, high)}"
        if name == "batch_tokens" and law.support.one_batch:
            bounds = "as in all runs"
        table.add_row(label, number_text(name, getattr(recipe, name)), bounds)
    if "batch_tokens" not in advice.lacks:
        table.add_row("batch (sequences)", f"{advice.sequences(target.sequence_length):,}", "")
    for name, value in recipe.other.items():
        low, high = advice.intervals[name]
        bounds = f"{number_text(name, low)} - {number_text(name, high)}"
        table.add_row(OTHER_LABELS[name], number_text(name, value), bounds)
    if advice.depth is not None:
        table.add_row("shape (width x depth)", f"{advice.width} x {advice.depth}", "")
    published = _table("published law", "learning rate", "batch", "loss", "source")
    published.columns[-1].overflow = "fold"  # an address that is cut leads nowhere
    for law_beside, theirs in advice.published:
        values = (theirs.learning_rate, theirs.batch_tokens, theirs.loss)
        cells = [
            "" if value is None else number_text(name, value)
            for name, value in zip(LABELS, values, strict=True)
        ]
        # Without what it was fitted to: a narrow terminal would break it into a column of words.
        source = re.split("[;,(]| to ", law_beside.source)[0].strip()
        published.add_row(law_beside.name, *cells, source)
    beyond_n, beyond_d = recipe.extrapolation
    notes = [
        _where(beyond_n, beyond_d, recipe.from_hull),
        f"fitted to {_runs_line(law)}",
        *([read_line(law)] if law.support.read_as else []),
    ]
    notes.append(held_out_line(law))
    if not advice.lacks:
        whole = advice.sequences(target.sequence_length) * target.sequence_length
        if abs(whole / recipe.batch_tokens - 1) > ROUNDED:
            notes.append(
                f"in whole sequences of {target.sequence_length:,} the batch is {whole:,} tokens; its best "
                f"peak is {scientific(recipe.learning_rate_at(whole), 3)}, which yaml and training_arguments "
                "use"
            )
    if advice.halving_flops is not None:
        notes.append(
            f"about {scientific(advice.halving_flops)} more FLOPs of such runs would halve the interval of "
            "the learning rate; runs nearer the target need fewer"
        )
    elif not law.support.by_rule and "learning_rate" not in advice.lacks:
        notes.append(
            "more runs at these sizes would not halve the learning rate's interval: the scatter between "
            "(N, D) is too large"
        )
    yellow = [Text(f"warning: {warning}", style="yellow") for warning in advice.warnings]
    lead = (
        [Text(advice.reach.line, style="bold red", no_wrap=True, overflow="ignore")]
        if advice.reach.reasons
        else []
    )
    others = Text("published laws are of other texts and sizes, their losses in nats a token", style="dim")
    return Group(*lead, title, table, published, others, *(Text(note) for note in notes), *yellow)


def _where(beyond_n: float, beyond_d: float, from_hull: float) -> str:
    beyond = [f"{name} lies {x:.3g} times" for name, x in (("N", beyond_n), ("D", beyond_d)) if x > 1.005]
    if beyond:
        return f"{' and '.join(beyond)} beyond the runs"
    if from_hull > 1.01:
        return f"N and D lie {from_hull:.2g} times from the hull of the runs, where no run is near both"
    return "N and D lie among those of the runs"


def advice_dict(law: ScalingLaw, advice: Advice, target: TargetConfig) -> dict[str, Any]:
    """The recommendation as plain JSON types, with units in the names."""
    recipe, optimal = advice.recipe, advice.optimal
    in_sequences: dict[str, Any] = {}
    if not advice.lacks:
        batch_sequences = advice.sequences(target.sequence_length)
        whole = batch_sequences * target.sequence_length
        in_sequences = {
            "batch_sequences": batch_sequences,
            "learning_rate_at_batch_sequences": recipe.learning_rate_at(whole),
            "steps": advice.steps(whole),
        }
    return {
        **out_of_reach(advice),
        "params": recipe.params,
        "tokens": recipe.tokens,
        "flops_6nd": recipe.flops,
        "optimizer": recipe.optimizer,
        **{name: getattr(recipe, name) for name in LABELS if name not in advice.lacks},
        **recipe.other,
        **in_sequences,
        "width": advice.width,
        "depth": advice.depth,
        "level": advice.level,
        "intervals": {
            name: list(bounds) for name, bounds in advice.intervals.items() if name not in advice.lacks
        },
        "compute_optimal": None
        if optimal is None
        else {
            "params_interval": list(optimal.params_interval),
            "tokens_interval": list(optimal.tokens_interval),
        },
        "extrapolation": {
            "params": recipe.extrapolation[0],
            "tokens": recipe.extrapolation[1],
            "from_hull": recipe.from_hull,
        },
        "published": {
            published.name: {
                "learning_rate": theirs.learning_rate,
                "batch_tokens": theirs.batch_tokens,
                "loss": theirs.loss,
                "source": published.source,
            }
            for published, theirs in advice.published
        },
        "halving_flops": advice.halving_flops,
        "rests_on": {
            "source": law.support.source,
            "runs": law.support.runs,
            "flops_6nd": law.support.total_flops,
            "read_as": list(law.support.read_as),
        },
        "formula": law.formula(),
        "warnings": list(advice.warnings),
    }


def out_of_reach(advice: Advice) -> dict[str, Any]:
    """The field `out_of_reach` of JSON answers: there where the runs cannot answer for the target."""
    return {"out_of_reach": advice.reach.line} if advice.reach.reasons else {}


def training_arguments(advice: Advice, target: TargetConfig) -> dict[str, Any]:
    """Fields of `transformers.TrainingArguments` for the recipe.

    Learning rate and steps belong to the batch that devices, sequences and accumulation really give. For
    a target out of reach, and for an optimizer that the trainer has no name for, there is one more field,
    which `TrainingArguments` refuses: take it out to go on.
    """
    total = advice.sequences(target.sequence_length)
    per_device = max(1, min(target.sequences_per_device, total // target.devices))
    accumulated = max(1, round(total / (per_device * target.devices)))
    batch_tokens = per_device * target.devices * accumulated * target.sequence_length
    arguments = {
        **out_of_reach(advice),
        "learning_rate": float(f"{advice.recipe.learning_rate_at(batch_tokens):.4g}"),
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulated,
        "max_steps": advice.steps(batch_tokens),
        "lr_scheduler_type": "cosine",
    }
    for name, field in TRAINER_FIELDS.items():
        if name in advice.recipe.other:
            arguments[field] = float(f"{advice.recipe.other[name]:.4g}")
    optimizer = advice.recipe.optimizer or "adamw"
    if optimizer in TRAINER_OPTIMIZERS:
        return {**arguments, "optim": TRAINER_OPTIMIZERS[optimizer]}
    # The trainer has no name for it, and its default is AdamW.
    return {**arguments, "not_by_name": f"pass Trainer(..., optimizers=({optimizer}, None))"}
