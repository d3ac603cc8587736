"""Energy of trials, as texts."""

from collections.abc import Sequence

from carbs_scaling.compute.energy import JOULES_PER_KWH
from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.numbers import compact
from carbs_scaling.trial import Energy

LEAST_KWH = 0.01  # below which joules alone are shown


def energies(records: Sequence[TrialRecord]) -> list[Energy]:
    """Those of the trials that ended, where they are known."""
    found = [ended(record).energy for record in records if not record.running]
    return [energy for energy in found if energy is not None]


def joules_text(energy: Energy | None) -> str:
    """Joules in few characters, an estimate with `~` before it; `-` where nothing is known."""
    if energy is None:
        return "-"
    joules = energy.joules if energy.joules < 10 else round(energy.joules)  # as many digits in each row
    return f"{'' if energy.measured else '~'}{compact(joules)}"


def energy_line(records: Sequence[TrialRecord]) -> str | None:
    """Joules, kWh and grams of CO2 of all trials that ended, and how they were found; None for none."""
    known = energies(records)
    if not known:
        return None
    joules, grams = sum(e.joules for e in known), sum(e.co2_grams for e in known)
    count = sum(not record.running for record in records)
    trials = f"{count} trials" if len(known) == count else f"{len(known)} of {count} trials"
    sources = "; ".join(dict.fromkeys(energy.source for energy in known))
    intensity = f" at {grams / joules * JOULES_PER_KWH:.0f} g a kWh" if joules else ""
    kwh = f" ({joules / JOULES_PER_KWH:.3g} kWh)" if joules >= LEAST_KWH * JOULES_PER_KWH else ""
    return f"energy of {trials}: {_with_unit(joules)}{kwh}, {grams:.3g} g CO2{intensity}; {sources}"


def _with_unit(joules: float) -> str:
    """`385 J`, `1.93 kJ`, `2.40 GJ`."""
    text = compact(joules).replace("B", "G")
    return f"{text[:-1]} {text[-1]}J" if text[-1].isalpha() else f"{text} J"
