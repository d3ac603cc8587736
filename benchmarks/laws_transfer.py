"""How far the best rate and batch of one lab lie from what the others' say: the widths of the default prior.

    python benchmarks/laws_transfer.py ../shared/data/lm_lr_batch_runs.csv ../shared/data/misfitting_lr.csv

For each published law of `FIELD`, and each table (the optima of its cells), the prior is built without the
laws of the same authors. Printed: level and exponents less that prior's mean, and in brackets in its standard
deviations. The last row is the root mean square of those: 1 where the widths (`SETTINGS`) are right.
"""

import argparse

import numpy as np
from _laws_table import smoothed_optimum
from _runs_table import read_table
from laws_few_runs import AUTHORS

from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.laws.prior.prior import FITTED_ON
from carbs_scaling.laws.prior.published import BY_NAME
from carbs_scaling.laws.prior.published_prior import FIELD, prior_of

RATE, BATCH = ("a0", "a_N", "a_D"), ("b0", "b_N", "b_D")
MIN_SWEPT, MIN_RATES = 12, 3


def of_law(name: str) -> tuple[np.ndarray, dict[str, float]]:
    """Centre (ln N, ln D, 0, 0), and level and exponents there, of a published law."""
    (n, d), step, found = FITTED_ON, np.exp(0.01), {}
    for names, curve in ((RATE, BY_NAME[name].learning_rate), (BATCH, BY_NAME[name].batch_tokens)):
        at = np.log([curve(n, d), curve(n * step, d), curve(n, d * step)])
        found |= dict(zip(names, [at[0], *(at[1:] - at[0]) / 0.01], strict=True))
    return np.array([np.log(n), np.log(d), 0.0, 0.0]), found


def of_table(runs) -> tuple[np.ndarray, dict[str, float], bool]:
    """The same of the optima of a table's cells, by least squares; whether all runs had one batch."""
    one_batch = np.ptp(np.log(runs.batch_tokens)) < 0.05
    rows = []
    for (n, d), cell in runs.groupby(["params", "tokens"]):
        if one_batch:
            means = cell.groupby("learning_rate").loss.mean()
            if len(means) < MIN_RATES:
                continue
            rates = np.log(means.index.to_numpy())
            bend, slope, _ = np.polyfit(rates, means.to_numpy(), 2)
            if bend > 0:  # else no optimum is seen
                best = np.clip(-slope / 2 / bend, rates[0] - 0.7, rates[-1] + 0.7)
                rows.append((np.log(n), np.log(d), best, 0.0))
        elif len(cell) >= MIN_SWEPT:
            points = np.log(cell[["learning_rate", "batch_tokens"]].to_numpy())
            rows.append((np.log(n), np.log(d), *smoothed_optimum(points, cell.loss.to_numpy())[0][:2]))
    optima = np.array(rows)
    centre = np.array([*optima[:, :2].mean(axis=0), 0.0, 0.0])
    columns = np.column_stack([np.ones(len(optima)), optima[:, :2] - centre[:2]])
    fits = np.linalg.lstsq(columns, optima[:, 2:], rcond=None)[0]
    found = dict(zip(RATE, fits[:, 0], strict=True))
    if one_batch:
        centre[3] = float(np.log(runs.batch_tokens).mean())
        return centre, found, True
    return centre, found | dict(zip(BATCH, fits[:, 1], strict=True)), False


def main() -> None:
    """Prints a row for each law and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help="CSV files of runs")
    settings = [(name, (name,), *of_law(name), False) for name in FIELD]
    for path in parser.parse_args().tables:
        runs, source = read_table(path)
        settings.append((f"{source.name} (runs)", AUTHORS.get(source.name, ()), *of_table(runs)))
    print(f"| setting | {' | '.join((*RATE, *BATCH))} |\n{'|---' * 7}|")
    squares: dict[str, list[float]] = {name: [] for name in (*RATE, *BATCH)}
    for name, own, centre, found, one_batch in settings:
        prior = prior_of([BY_NAME[n] for n in FIELD if n not in own], 2.5, centre)
        prior, cells = prior.at_one_batch() if one_batch else prior, []
        for parameter in (*RATE, *BATCH):
            if parameter in found:
                off = found[parameter] - prior.at(parameter)
                z = off / prior.scale[INDEX[parameter]]
                squares[parameter].append(z**2)
                cells.append(f"{off:+.2f} ({z:+.1f})")
            else:
                cells.append("-")
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"| rms | {' | '.join(f'{np.sqrt(np.mean(z)):.2f}' for z in squares.values())} |")


if __name__ == "__main__":
    main()
