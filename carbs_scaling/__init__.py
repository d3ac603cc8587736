"""Cost-aware Bayesian search for language-model scaling. Names load on first use: torch is slow to import."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "CarbsSampler": "carbs_scaling.samplers.carbs",
    "fit_law": "carbs_scaling.laws.fit.fit_law",
    "law_scheduler": "carbs_scaling.training.law_scheduler",
}
__all__ = ["CarbsSampler", "__version__", "fit_law", "law_scheduler"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
