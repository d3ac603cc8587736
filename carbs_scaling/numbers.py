"""Numbers as people read them: 24.6k parameters, 1.2e11 FLOPs, 0:42, about 3 min."""

import math

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
# From sparse to dense: which multiples of a power of ten carry a tick on a logarithmic axis.
_TICK_MANTISSAS = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 4, 5, 7),
    (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8),
    tuple(m / 10 for m in range(10, 100, 5)),
    tuple(m / 10 for m in range(10, 100, 2)),
    tuple(m / 10 for m in range(10, 100)),
)


def compact(value: float) -> str:
    """Three significant digits and a suffix: 24576 -> `24.6k`, 3.4e6 -> `3.40M`, 512 -> `512`."""
    rounded = float(f"{value:.3g}")  # before the suffix is chosen, so that 999,900 is 1M and not 1000k
    for scale, suffix in _SUFFIXES:
        if abs(rounded) >= scale:
            return f"{rounded / scale:#.3g}".rstrip(".") + suffix
    return f"{rounded:g}"


def exact_or_compact(value: int) -> str:
    """A count in full while that is short, for what comes in powers of two: 4096, not 4.10k."""
    return str(value) if value < 100_000 else compact(value)


def scientific(value: float, digits: int = 2) -> str:
    """`digits` significant digits without padding: 1.23e11 -> `1.2e11`, 0.013 -> `1.3e-2`, 0 -> `0`."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def spent_text(spent: float, budget: float, digits: int) -> str:
    """What was spent, and of which budget where there is one: `1.2e11 of 2.0e11 FLOPs (60%)`."""
    if not (0 < budget < math.inf):  # a study in somebody's own program may have none
        return f"{scientific(spent, digits)} FLOPs"
    return f"{scientific(spent, digits)} of {scientific(budget, digits)} FLOPs ({spent / budget:.0%})"


def clock_text(seconds: float) -> str:
    """Elapsed time: `0:42`, `12:05`, `3:20:01`."""
    whole = max(0, int(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def rough_duration(seconds: float) -> str:
    """An estimate, no more precise than it deserves: `about 40 s`, `about 3 min`, `about 2.5 h`."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"about {10 * round(seconds / 10)} s"
    if seconds < 100 * 60:
        return f"about {max(1, round(seconds / 60))} min"
    if seconds < 48 * 3600:
        return f"about {round(seconds / 1800) / 2:g} h"
    return f"about {round(seconds / 86400)} days"


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high] for a logarithmic axis, as many as possible but at most `most`."""
    chosen: list[float] = []
    for mantissas in _TICK_MANTISSAS:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**decade for decade in decades for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > most:
            # Nothing round enough was found before: thin these out rather than leave the axis bare.
            return chosen if len(chosen) >= 2 else ticks[:: -(-len(ticks) // most)]
        chosen = ticks
    return chosen
