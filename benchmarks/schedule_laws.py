"""Predicts the loss curves of schedules from those of two others, by four laws, and ranks those schedules.

    nice python benchmarks/schedule_laws.py [--data ../shared/data/schedule_curves] [--output results.json]

Each law is fitted to the constant and the cosine schedule of 24,000 steps of a model size, and predicts
the other schedules of that size, whose predicted final losses rank them. The schedule that the Multi-Power
Law likes best is then compared with cosine by that law. Last, the Multi-Power and the functional law are
fitted to all curves of a size: what these say of the forgetting of noise, and the schedule that is best by
them, is where the defaults of conf/schedule/sde.yaml come from.
"""

import argparse
import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares, minimize_scalar, nnls
from scipy.stats import spearmanr

from carbs_scaling.laws.schedules.fit import (
    LossCurve,
    agreement,
    best_schedule,
    fit_schedule_law,
    rank_schedules,
)
from carbs_scaling.laws.schedules.law import (
    SCHEDULE_LAWS,
    FunctionalLaw,
    MultiPowerLaw,
    Schedule,
)

FITTED = ("constant_24000", "cosine_24000")
# Of the Multi-Power Law's drops: what two curves do not tell. The response is what a step adds at the peak.
HINDSIGHT = {
    "rate_exponent": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    "drop_exponent": (0.1, 0.3, 0.5, 1.0, 1.5, 2.5, 4.0, 6.0),
    "response": (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 3e-2, 0.1, 1.0),
}
ALL_CURVES_STEPS = (6000, 24000)  # for which the schedule best by the laws of all curves is sought


def read_curve(file: Path) -> LossCurve:
    """A curve file (step, lr, loss). Its first point ends the warmup, which is taken to have been linear."""
    table = pd.read_csv(file)
    steps, rates = table["step"].to_numpy(), table["lr"].to_numpy()
    warmup = int(steps[0])
    every = np.arange(warmup, int(steps[-1]) + 1)
    schedule = Schedule(np.interp(every, steps, rates), warmup_area=float(rates[0]) * warmup / 2)
    return LossCurve(schedule, steps - warmup + 1, table["loss"].to_numpy())


def main() -> None:
    """Prints a table a model size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/schedule_curves"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/schedule_laws.json"))
    options = parser.parse_args()
    files = sorted(options.data.glob("*.csv"))
    if not files:
        raise SystemExit(
            f"no curves in {options.data}: they are the loss curves of github.com/thu-yao-01-luo/"
            "MultiPowerLaw (step, lr, loss), given by --data FOLDER"
        )
    results = {}
    for size in sorted({file.stem.split("_")[0] for file in files}):
        curves = {
            f.stem.removeprefix(f"{size}_"): read_curve(f) for f in files if f.stem.startswith(f"{size}_")
        }
        results[size] = compare(size, curves)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2))


def compare(size: str, curves: dict[str, LossCurve]) -> dict:
    """Fits all laws and prints how they predict what they have not seen."""
    held_out = [name for name in curves if name not in FITTED]
    result: dict = {}
    laws = {}
    print(f"\n{size}: fitted on {', '.join(FITTED)}")
    print(f"{'law':<16}{'schedule':<20}{'R^2':>9}{'mean |error|':>14}{'final error':>13}")
    for kind in SCHEDULE_LAWS:
        law = laws[kind] = fit_schedule_law(kind, [curves[name] for name in FITTED])
        rows = {name: agreement(law, curves[name]) for name in held_out}
        for name, row in rows.items():
            print(
                f"{kind.name:<16}{name:<20}{row.r_squared:>9.4f}{row.mean_absolute_error:>14.4f}"
                f"{row.final_error:>13.4f}"
            )
        measured = np.array([curves[name].loss[-1] for name in held_out])
        finals_by_name = rank_schedules(law, {name: curves[name].schedule for name in held_out})
        predicted = np.array([finals_by_name[name] for name in held_out])
        finals = final_r_squared(law, [curves[name] for name in held_out])
        rank = spearmanr(predicted, measured).statistic
        pooled = pooled_r_squared(law, [curves[name] for name in held_out])
        print(
            f"{kind.name:<16}{'whole curves, all':<20}{pooled:>9.4f}   final losses: R^2 {finals:.4f}, "
            f"rank correlation {rank:.3f}"
        )
        print(f"{'':<16}predicted order: {', '.join(finals_by_name)}")
        result[kind.name] = {
            "law": {"name": law.name, **asdict(law)},
            "curves": {name: vars(row) for name, row in rows.items()},
            "pooled_r_squared": pooled,
            "final_r_squared": finals,
            "rank_correlation": rank,
            "predicted_order": list(finals_by_name),
        }
    result["best_schedule"] = best_against_cosine(laws[MultiPowerLaw], curves["cosine_24000"])
    result["in_hindsight"] = in_hindsight(curves)
    result["all_curves"] = {
        kind.name: best_by_all_curves(kind, curves) for kind in (MultiPowerLaw, FunctionalLaw)
    }
    return result


def pooled_r_squared(law, curves: list[LossCurve]) -> float:
    """Of all points of all curves together."""
    loss = np.concatenate([curve.loss for curve in curves])
    off = np.concatenate([law.loss(curve.schedule, curve.steps) for curve in curves]) - loss
    return float(1 - np.sum(off**2) / np.sum((loss - loss.mean()) ** 2))


def final_r_squared(law, curves: list[LossCurve]) -> float:
    """Of the curves' last points."""
    measured = np.array([curve.loss[-1] for curve in curves])
    off = np.array([agreement(law, curve).final_error for curve in curves])
    return float(1 - np.sum(off**2) / np.sum((measured - measured.mean()) ** 2))


def best_against_cosine(law, cosine: LossCurve) -> dict:
    """The best schedule of as many steps and the same peak, by the law's own prediction."""
    steps = len(cosine.schedule.learning_rates)
    peak = float(cosine.schedule.learning_rates[0])
    best = best_schedule(law, steps, peak, cosine.schedule.warmup_area)
    last = np.array([steps])
    losses = [float(law.loss(schedule, last)[0]) for schedule in (cosine.schedule, best)]
    shape = [
        float(best.learning_rates[int(share * (steps - 1))] / peak) for share in (0, 0.25, 0.5, 0.75, 0.9, 1)
    ]
    print(
        f"best schedule by the Multi-Power Law: final loss {losses[1]:.4f}, cosine {losses[0]:.4f}; "
        "learning rate / peak at 0, 25, 50, 75, 90, 100% of the steps: "
        + ", ".join(f"{v:.2f}" for v in shape)
    )
    return {"cosine": losses[0], "best": losses[1], "shape": shape}


def best_by_all_curves(kind: type, named: dict[str, LossCurve]) -> dict:
    """A law of all curves, and the best schedule by it put as a WSD with a power decay.

    That it has seen them all is what makes its agreement worth printing: no fit of the form to fewer curves
    should be asked for more.
    """
    curves = list(named.values())
    law = fit_schedule_law(kind, curves, starts=3)
    result = {
        "law": {"name": law.name, **asdict(law)},
        "r_squared": pooled_r_squared(law, curves),
        "final_r_squared": final_r_squared(
            law, [curve for name, curve in named.items() if name not in FITTED]
        ),
        "decays": {},
    }
    exponents = {name: value for name, value in vars(law).items() if "exponent" in name}
    print(
        f"{kind.name} fitted to all curves: R^2 {result['r_squared']:.4f}, final losses "
        f"of the {len(curves) - len(FITTED)} other schedules {result['final_r_squared']:.4f}, "
        + ", ".join(f"{name} {value:.2f}" for name, value in exponents.items())
    )
    first = curves[0].schedule
    for steps in ALL_CURVES_STEPS:
        best = best_schedule(law, steps, float(first.learning_rates[0]), first.warmup_area, lowest=0.002)
        fraction, exponent = wsd_like(best.learning_rates / best.learning_rates[0])
        print(f"  best in {steps} steps: decay over the last {fraction:.0%} as (1 - x)^{exponent:.2f}")
        result["decays"][steps] = (fraction, exponent)
    return result


def in_hindsight(named: dict[str, LossCurve]) -> dict:
    """The best that the Multi-Power Law can do from two curves, were the exponents of its drops known.

    They are chosen by the held-out final losses themselves; floor, amplitude, exponent and the drops' gain
    are fitted to the two curves, by least squares on relative residuals. No fit can be asked for more.
    """
    held_out = [curve for name, curve in named.items() if name not in FITTED]
    fitted = [named[name] for name in FITTED]
    peak = max(curve.schedule.learning_rates.max() for curve in fitted)
    loss = np.concatenate([curve.loss for curve in fitted])
    area = np.concatenate([curve.schedule.area[curve.steps - 1] for curve in fitted])
    best = {"final_r_squared": -np.inf}
    for gamma, beta, response in product(*HINDSIGHT.values()):
        drops = MultiPowerLaw(0.0, 0.0, 1.0, 1.0, response * peak ** (gamma - 1), beta, gamma)
        fallen = np.concatenate([drops.loss(curve.schedule, curve.steps) for curve in fitted])

        def solve(alpha: float, fallen=fallen) -> tuple[np.ndarray, float]:
            columns = np.stack([np.ones_like(area), area**-alpha, fallen], axis=-1)
            return nnls(columns / loss[:, None], np.ones_like(loss))

        alpha = minimize_scalar(lambda a: solve(a)[1], bounds=(0.2, 0.9), method="bounded").x
        floor, amplitude, gain = solve(alpha)[0]
        law = replace(drops, floor=floor, amplitude=amplitude, exponent=float(alpha), drop_gain=gain)
        if (found := final_r_squared(law, held_out)) > best["final_r_squared"]:
            best = {
                "final_r_squared": found,
                "pooled_r_squared": pooled_r_squared(law, held_out),
                "law": {"name": law.name, **asdict(law)},
                "response": response,
            }
    law = best["law"]
    print(
        f"Multi-Power Law, drops in hindsight: whole curves R^2 {best['pooled_r_squared']:.4f}, final losses "
        f"{best['final_r_squared']:.4f}, drop_exponent {law['drop_exponent']:g}, rate_exponent "
        f"{law['rate_exponent']:g}, response {best['response']:g} a step"
    )
    return best


def wsd_like(shares: np.ndarray) -> tuple[float, float]:
    """Decay fraction and exponent of the warmup-stable-decay nearest to shares of the peak, (steps,)."""
    every = np.linspace(0, len(shares) - 1, 500).astype(int)
    position = every / len(shares)

    def misfit(logs: np.ndarray) -> np.ndarray:
        fraction, exponent = np.exp(logs)
        return (1 - np.clip((position - 1 + fraction) / fraction, 0, 1)) ** exponent - shares[every]

    fraction, exponent = np.exp(least_squares(misfit, np.log([0.3, 1.5])).x)
    return float(fraction), float(exponent)


if __name__ == "__main__":
    main()
