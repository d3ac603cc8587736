"""`carbs-scaling import`: finished runs from elsewhere into a study, which does not pay for them."""

from omegaconf import DictConfig, OmegaConf

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.config import ImportConfig
from carbs_scaling.config_loading import load_config

SHOWN = 3  # rows that are no runs, of which the reason is printed


def run(composed: DictConfig) -> None:
    """Reads the table and adds its runs to the study, which is begun where there is none."""
    own = ("runs", "columns")
    config = load_config(ImportConfig, OmegaConf.masked_copy(composed, list(own)))
    rest = [str(name) for name in composed if name not in own]
    search, task_config = load_search(OmegaConf.masked_copy(composed, rest))

    import warnings

    import optuna

    from carbs_scaling.commands.search import counted_in_trials
    from carbs_scaling.ledger.imported import read_rows, require_some
    from carbs_scaling.ledger.lease import sole_coordinator
    from carbs_scaling.ledger.other_studies import reader_of
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.search import build_sampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    rows = read_rows(config.runs)
    task = build_task(search, task_config)
    search = counted_in_trials(search, task)
    runs, refused = reader_of(task).runs(rows, config.runs, config.columns)
    require_some(runs, refused, config.runs)
    place = search.study
    with sole_coordinator(place, kept=lambda _: False) as lease:
        study = Study.begin(place, task, search.budget.flops, build_sampler(search, task), lease)
        added = study.add_runs(task, runs)
    there = len(runs) - added
    again = f", {there} were there already" if there else ""
    print(f"imported {added} runs of {config.runs} into study {place.name}{again}")
    for reason in refused[:SHOWN]:
        print(f"left out: {reason}")
    if len(refused) > SHOWN:
        print(f"left out: {len(refused) - SHOWN} more rows")
