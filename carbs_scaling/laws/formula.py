"""The scaling law as lines of text that give, worked out by hand, exactly what `recommend` gives."""

from typing import TYPE_CHECKING

import numpy as np

from carbs_scaling.laws.form.bends import ALL_BENDS

if TYPE_CHECKING:
    from carbs_scaling.laws.scaling_law import ScalingLaw

# Names of the bends of rate, batch and floor in the formula, in the order of `ALL_BENDS`.
_LETTERS = dict(zip(ALL_BENDS, "GHF", strict=True))
_NO_BEND = 1e-12


def formula_lines(law: "ScalingLaw") -> tuple[str, ...]:
    """Loss, learning rate and batch, a line each, and where they bend two more lines that define F, G, H."""
    n0, d0 = np.exp(law.centre[0]), np.exp(law.centre[1])
    bends = {kind: row for kind, row in zip(ALL_BENDS, law.bend, strict=True) if np.abs(row).max() > _NO_BEND}
    exponential = {kind: f" e^{_LETTERS[kind]}" if kind in bends else "" for kind in ALL_BENDS}

    def powers(in_n: float, in_d: float) -> str:
        return f"(N/{n0:.6g})^{in_n:.5f} (D/{d0:.6g})^{in_d:.5f}"

    lines = [f"{_loss(law)}{exponential['floor']}"]
    if law.has_role[2]:
        level = np.exp(law.centre[2] + law.parameter("a0"))
        rate = powers(law.parameter("a_N"), law.parameter("a_D"))
        lines.append(f"lr = {level:.6g} {rate}{exponential['rate']}")
    if law.has_role[3]:
        level = np.exp(law.centre[3] + law.parameter("b0"))
        batch = f" {powers(law.parameter('b_N'), law.parameter('b_D'))}{exponential['batch']}"
        lines.append(f"B = {level:.6g}{' (all runs had it)' if law.support.one_batch else batch}")
    if bends:
        lines += _bend_lines(bends, law.reach, float(n0), float(d0))
    return tuple(lines)


def _loss(law: "ScalingLaw") -> str:
    gamma, alpha, beta = (np.exp(law.parameter(f"ln_{name}")) for name in ("gamma", "alpha", "beta"))
    share = 1 / (1 + np.exp(-law.parameter("logit_share")))
    scale = np.exp(law.parameter("ln_R"))
    by_n = scale * share**gamma * np.exp(alpha * law.centre[0])
    by_d = scale * (1 - share) ** gamma * np.exp(beta * law.centre[1])
    return (
        f"L = {np.exp(law.parameter('ln_E')):.6g} + [({by_n:.6g} N^-{alpha:.5f})^{1 / gamma:.5f} + "
        f"({by_d:.6g} D^-{beta:.5f})^{1 / gamma:.5f}]^{gamma:.5f}"
    )


def _bend_lines(
    bends: dict[str, tuple[float, ...]],
    reach: tuple[tuple[float, float], tuple[float, float]],
    n0: float,
    d0: float,
) -> list[str]:
    terms = ", ".join(
        f"{_LETTERS[kind]} = {row[0]:.6g} (m x - m^2/2) {row[1]:+.6g} (m y + l x - m l) "
        f"{row[2]:+.6g} (l y - l^2/2)"
        for kind, row in bends.items()
    )
    (n_low, n_high), (d_low, d_high) = reach
    return [
        f"where {terms}",
        f"with m = ln(N/{n0:.6g}) kept within {n_low:.6g} and {n_high:.6g}, l = ln(D/{d0:.6g}) within "
        f"{d_low:.6g} and {d_high:.6g}; x = m and y = l within those, and at a distance u beyond them "
        "x = m +- (1 - e^-u), y = l +- (1 - e^-u)",
    ]
