"""The printed formula is the law: worked out by hand it gives what `recommend` gives."""

import re

import numpy as np
import pytest

from carbs_scaling import fit_law


def by_hand(lines, params, tokens):
    """Loss, learning rate and batch from the printed text alone."""
    text = "\n".join(lines)
    number = r"([-+]?[\d.]+(?:e[-+]?\d+)?)"
    bends = dict.fromkeys("FGH", 0.0)
    if "with m" in text:
        n0, n_low, n_high, d0, d_low, d_high = (
            float(v)
            for v in re.search(
                rf"m = ln\(N/{number}\) kept within {number} and {number}, "
                rf"l = ln\(D/{number}\) within {number} and {number}",
                text,
            ).groups()
        )

        def place(value, low, high):
            near = min(max(value, low), high)
            return near, near + np.sign(value - near) * (1 - np.exp(-abs(value - near)))

        (m, x), (k, y) = place(np.log(params / n0), n_low, n_high), place(np.log(tokens / d0), d_low, d_high)
        terms = (m * x - m**2 / 2, m * y + k * x - m * k, k * y - k**2 / 2)
        for name in bends:
            found = re.search(rf"{name} = {number} \(m x.*?\) {number} \(m y.*?\) {number} \(l y", text)
            if found:
                bends[name] = sum(float(c) * t for c, t in zip(found.groups(), terms, strict=True))
    e, a, alpha, inner, b, beta, _, gamma = (
        float(v)
        for v in re.search(
            rf"L = {number} \+ \[\({number} N\^-{number}\)\^{number} \+ "
            rf"\({number} D\^-{number}\)\^{number}\]\^{number}",
            text,
        ).groups()
    )
    reducible = ((a * params**-alpha) ** inner + (b * tokens**-beta) ** inner) ** gamma
    found = {"loss": e + reducible * np.exp(bends["F"])}
    for name, letter, bend in (("learning_rate", "lr", "G"), ("batch_tokens", "B", "H")):
        level, at_n, in_n, at_d, in_d = (
            float(v)
            for v in re.search(
                rf"^{letter} = {number} \(N/{number}\)\^{number} \(D/{number}\)\^{number}", text, re.MULTILINE
            ).groups()
        )
        found[name] = level * (params / at_n) ** in_n * (tokens / at_d) ** in_d * np.exp(bends[bend])
    return found


@pytest.mark.parametrize(("params", "tokens"), [(1e8, 4e9), (6e9, 6e11), (3e6, 2e8)])
@pytest.mark.parametrize("bent", [False, True])
def test_worked_out_by_hand_it_is_the_recommendation(truth, params, tokens, bent):
    runs = truth.draw()
    if bent:
        n, d = np.log(runs.params / 1e8), np.log(runs.tokens / 4e9)
        runs = runs.assign(
            learning_rate=runs.learning_rate * np.exp(0.05 * n**2),
            batch_tokens=runs.batch_tokens * np.exp(0.05 * d**2),
            loss=runs.loss + (runs.loss - 1.6) * np.expm1(-0.03 * n * d),
        )
    law = fit_law(runs, check=False)
    recipe, hand = law.recommend(params, tokens), by_hand(law.formulas(), params, tokens)
    for name, value in hand.items():
        assert value == pytest.approx(getattr(recipe, name), rel=2e-4), name
