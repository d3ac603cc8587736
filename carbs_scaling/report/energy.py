"""Energy of trials, as texts."""

from collections.abc import Sequence

from carbs_scaling.compute.energy import JOULES_PER_KWH
from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.numbers import compact
from carbs_scaling.trial import Energy


def energies(records: Sequence[TrialRecord]) -> list[Energy]:
    """Those of the trials that ended, where they are known."""
    found = [ended(record).energy for record in records if not record.running]
    return [energy for energy in found if energy is not None]


def joules_text(energy: Energy | None) -> str:
    """Joules in few characters, an estimate with `~` before it; `-` where nothing is known."""
    return "-" if energy is None else f"{'' if energy.measured else '~'}{compact(energy.joules)}"


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
    return (
        f"energy of {trials}:  {compact(joules)} J ({joules / JOULES_PER_KWH:.3g} kWh), {grams:.3g} g CO2"
        f"{intensity}; {sources}"
    )
