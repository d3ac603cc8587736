"""Cost-aware Bayesian search for language-model scaling. Names load on first use: torch is slow to import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors
    from carbs_scaling.laws.fit.fit_law import fit_law
    from carbs_scaling.samplers.carbs import CarbsSampler
    from carbs_scaling.trainer_search import search_trainer
    from carbs_scaling.training.law_scheduler import law_scheduler
    from carbs_scaling.training.trainer_schedule import LawSchedule

__version__ = "0.1.0"

_EXPORTS = {
    "CarbsSampler": "carbs_scaling.samplers.carbs",
    "LawSchedule": "carbs_scaling.training.trainer_schedule",
    "fit_law": "carbs_scaling.laws.fit.fit_law",
    "law_scheduler": "carbs_scaling.training.law_scheduler",
    "search_trainer": "carbs_scaling.trainer_search",
}
__all__ = ["CarbsSampler", "LawSchedule", "__version__", "fit_law", "law_scheduler", "search_trainer"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
