"""`carbs-scaling compare`: several studies side by side, as a table, a file and a picture."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from carbs_scaling.config import StudyConfig, require
from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import StudyError
from carbs_scaling.ledger.identity import flatten
from carbs_scaling.names import as_name
from carbs_scaling.verb_config import CompareConfig

if TYPE_CHECKING:
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.report.compare import Spending

LONGEST_PICTURE = 80  # characters of a picture's name
# Keys of the identity that must agree, beside those that the task names.
ALWAYS_SHARED = ("task", "metric", "flops_convention")


def run(composed: DictConfig) -> None:
    """Compares, shows, draws and writes."""
    config = load_config(CompareConfig, composed)

    import optuna

    from carbs_scaling.commands.front import print_paths
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.report.compare import compare
    from carbs_scaling.report.compare_figure import draw_comparison_png
    from carbs_scaling.report.compare_table import comparison_report, comparison_rows
    from carbs_scaling.report.front import write_front
    from carbs_scaling.report.terminal import console

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    places = [place for name in config.studies for place in named(config.study, str(name))]
    require(
        len({place.folder for place in places}) >= 2, f"studies={config.studies} must be two studies or more"
    )
    studies = [Study.load(place) for place in places]
    names = shortest_names([place.folder for place in places]) or [place.name for place in places]
    require_comparable(names, studies)
    spendings = [spending(name, study) for name, study in zip(names, studies, strict=True)]
    grouped = config.by == "sampler"
    comparisons = compare(spendings, grouped)
    unit = studies[0].metric
    # A file's content may go to standard output, for a pipe; what else there is to say goes beside it.
    out = console(stderr=config.format != "table")
    paths = []
    if config.format == "table":
        out.print(comparison_report(comparisons, unit, grouped))
    else:
        write_front(comparison_rows(comparisons, grouped), config.format, config.output)
    if config.output is not None:
        paths.append(Path(config.output))
    if config.plots:
        beside = picture_path(places[0].folder.parent, names)
        beside = beside if config.output is None else Path(config.output).with_suffix(".png")
        paths.append(draw_comparison_png(spendings, beside, unit, grouped))
    print_paths(paths, out)


def named(study: StudyConfig, name: str) -> list[StudyConfig]:
    """The study of a name, or those whose folders' names a pattern with `*` fits, in order.

    Raises:
        ConfigError: none fits the pattern.
    """
    if "*" not in name:
        return [study.other(name)]
    pattern = Path(name).expanduser() if "/" in name else Path(study.directory).expanduser() / name
    found = sorted(folder for folder in pattern.parent.glob(pattern.name) if (folder / "study.db").is_file())
    require(bool(found), f"studies: no study fits {name}")
    return [study.other(str(folder) if "/" in name else folder.name) for folder in found]


def picture_path(folder: Path, names: Sequence[str]) -> Path:
    """A picture of its own for each comparison."""
    text = as_name("-".join(("compare", *names)))
    if len(text) > LONGEST_PICTURE:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        text = f"compare-{names[0][:40]}-and-{len(names) - 1}-more-{digest}"
    return folder / f"{text}.png"


def shortest_names(folders: Sequence[Path]) -> list[str]:
    """As little of the ends of some paths as tells them apart; none where they are not all different."""
    for parts in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return []


def require_comparable(names: Sequence[str], studies: "Sequence[Study]") -> None:
    """Refuses studies whose losses or FLOPs do not mean the same.

    Raises:
        StudyError: says which two differ in what.
    """
    identities = [flatten(study.identity) for study in studies]
    keys = dict.fromkeys((*ALWAYS_SHARED, *(key for study in studies for key in study.comparable_by)))
    for key in keys:
        values = [str(identity.get(key)) for identity in identities]
        for name, value in zip(names, values, strict=True):
            if value != values[0]:
                raise StudyError(
                    f"studies {names[0]} and {name} differ in {key} ({values[0][:16]}, {value[:16]}): "
                    "their losses or FLOPs cannot be compared"
                )


def spending(name: str, study: "Study") -> "Spending":
    """The trials of a study that ended, in the order in which they did, without imported runs.

    Raises:
        StudyError: none completed.
    """
    import numpy as np

    from carbs_scaling.ledger.record import ended
    from carbs_scaling.report.compare import Spending

    records = [record for record in study.records_as_ended() if not record.imported]
    if not any(record.completed for record in records):
        raise StudyError(f"study {name} has no completed run yet")
    numbers: dict[Any, int] = {}
    samplers = dict.fromkeys(str(record.provenance.get("sampler", "-")) for record in records)
    energies = [ended(record).energy for record in records]
    return Spending(
        name=name,
        sampler="+".join(samplers),
        budget_flops=study.budget_flops,
        flops=np.array([record.flops for record in records]),
        charged=np.array([record.price_flops for record in records]),
        loss=np.array([record.loss if record.completed else np.nan for record in records]),
        recipe=np.array([numbers.setdefault(record.point_key, len(numbers)) for record in records]),
        joules=np.array([np.nan if energy is None else energy.joules for energy in energies]),
        wall_seconds=study.wall_seconds,
    )
