"""`carbs-scaling report`: a study as one page, as HTML, PDF or PNG."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.verb_config import ReportConfig


def run(composed: DictConfig) -> None:
    """Writes the page of a study that exists."""
    config = load_config(ReportConfig, composed)

    import optuna

    from carbs_scaling.commands.front import print_paths, require_completed
    from carbs_scaling.ledger.study import Study
    from carbs_scaling.report.browser import find_browser, print_page
    from carbs_scaling.report.terminal import console, working

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("carbs_scaling").addHandler(logging.NullHandler())
    study = Study.load(config.study)
    require_completed(study)
    browser = None if config.format == "html" else find_browser()
    output = Path(config.output or config.study.folder / f"report.{config.format}")
    page = output if browser is None else output.with_name(f".{output.name}.html")
    try:
        with working(f"writing the report of study {study.name}"):
            from carbs_scaling.report.study_report import write_report  # takes its time too

            write_report(study, page, config.target_flops)
            if browser is not None:
                print_page(browser, page, output, config.width)
    finally:
        if browser is not None:
            page.unlink(missing_ok=True)
    print_paths([output], console())
