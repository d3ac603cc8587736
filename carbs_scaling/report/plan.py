"""A plan for people, and as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from carbs_scaling.laws.prior.published import LAWS
from carbs_scaling.numbers import compact, scientific

if TYPE_CHECKING:
    from carbs_scaling.compute.plan import Interval, Plan, PlannedRun


def plan_lines(plan: "Plan", device_memory_bytes: float | None) -> list[str]:
    """The plan as text.

    Args:
        plan: what is shown.
        device_memory_bytes: of one device; None where it is not known.
    """
    final = plan.final
    total_seconds = plan.search_seconds + final.seconds
    lines = [
        f"budget: {scientific(plan.flops, 3)} FLOPs, {time_text(total_seconds)} on {plan.devices} device"
        f"{'s' if plan.devices > 1 else ''}",
        f"  a device: {plan.throughput.source}",
        "",
        f"search: {scientific(plan.search_flops, 3)} FLOPs, {time_text(plan.search_seconds)}; dearest trial "
        f"{plan.max_trial_fraction:.0%} of it",
        f"  {'runs':>5} {'N':>7} {'width x depth':>14} {'D':>7} {'FLOPs a run':>12} {'time a run':>11}",
    ]
    lines += [
        f"  {run.runs:>5} {compact(run.shape.params):>7} {_shape(run):>14} {compact(run.tokens):>7} "
        f"{scientific(run.flops):>12} {time_text(run.seconds):>11}"
        for run in plan.ladder
    ]
    lines += [
        "",
        f"final run: {scientific(final.flops, 3)} FLOPs, {time_text(final.seconds)}, "
        f"{compact(plan.tokens_per_second)} tokens a second,",
        f"  width x depth {_shape(final)}",
        "",
        f"  {'by published laws':<24} {'median':>9}   least - greatest",
    ]
    for label, values, text in (
        ("parameters N", plan.params, compact),
        ("tokens D", plan.tokens, compact),
        ("learning rate (peak)", plan.learning_rate, lambda x: scientific(x, 3)),
        ("batch (tokens a step)", plan.batch_tokens, compact),
        ("loss (nats a token)", plan.loss, lambda x: f"{x:.3f}"),
    ):
        middle, least, greatest = (text(value) for value in values)
        lines.append(f"  {label:<24} {middle:>9}   {least} - {greatest}")
    lines += ["", "memory a device, one sequence at once:"]
    for name, what in (("whole", "weights whole (DDP)"), ("sharded", "weights sharded (FSDP)")):
        needed, verdict = plan.memory_bytes[name], ""
        if device_memory_bytes is not None:
            fits = needed <= 0.9 * device_memory_bytes
            verdict = f"{'fits' if fits else 'does not fit'} into {device_memory_bytes / 1e9:.0f} GB"
        lines.append(f"  {what:<24} {needed / 1e9:6.1f} GB   {verdict}".rstrip())
    named = ", ".join(law.name for law in LAWS if law.floor is not None)
    lines += [
        "",
        f"N and D of least loss by {named}. These laws are of other",
        "texts and vocabularies: the search's own law replaces them (fit, recommend).",
        "Memory is an estimate.",
    ]
    return lines


def plan_dict(plan: "Plan") -> dict[str, Any]:
    """The plan as plain JSON types, with units in the names."""

    def of(values: "Interval") -> dict[str, float]:
        return dict(zip(("median", "least", "greatest"), values, strict=True))

    def run(planned: "PlannedRun") -> dict[str, Any]:
        own = {name: getattr(planned, name) for name in ("runs", "tokens", "flops", "seconds")}
        return {"params": planned.shape.params, **asdict(planned.shape), **own}

    return {
        "flops": plan.flops,
        "devices": plan.devices,
        "throughput": plan.throughput.source,
        "search": {
            "flops": plan.search_flops,
            "seconds": plan.search_seconds,
            "max_trial_fraction": plan.max_trial_fraction,
            "ladder": [run(planned) for planned in plan.ladder],
        },
        "final": {**run(plan.final), "tokens_per_second": plan.tokens_per_second},
        "by_published_laws": {
            name: of(getattr(plan, name))
            for name in ("params", "tokens", "learning_rate", "batch_tokens", "loss")
        },
        "memory_bytes_a_device": plan.memory_bytes,
    }


def _shape(run: "PlannedRun") -> str:
    return f"{run.shape.width} x {run.shape.depth}"


def time_text(seconds: float) -> str:
    """`42 s`, `12 min`, `7.2 h`: the unit that keeps two or three figures."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.3g} h"
