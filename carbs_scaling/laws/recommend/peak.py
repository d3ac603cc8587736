"""The peak learning rate by a law for a model of N parameters, D tokens and a given batch."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from carbs_scaling.laws.prior.published import BY_NAME, PublishedLaw
from carbs_scaling.laws.runs.table import LawArgumentError, LawError
from carbs_scaling.laws.scaling_law import LawsByOptimizer, ScalingLaw

# Exponent of the rate in the batch, away from the batch of a published law: Adam's square-root rule (Malladi
# et al. 2022, arXiv 2205.10287). A fitted law has its own exponent.
ADAM_BATCH_EXPONENT = 0.5


AnyLaw = ScalingLaw | LawsByOptimizer | PublishedLaw


@dataclass(frozen=True)
class Peak:
    """A peak learning rate, its batch and its source.

    Args:
        learning_rate: peak.
        batch_tokens: tokens a step.
        law: the law's name, or "fitted law".
    """

    learning_rate: float
    batch_tokens: float
    law: str


def find_law(law: AnyLaw | str | Path) -> AnyLaw:
    """Return a law unchanged, a published one by its name (any case), or a fitted one from its JSON file.

    Raises:
        LawError: there is no law of that name and no such file.
    """
    if not isinstance(law, str | Path):
        return law
    named = {name.lower(): published for name, published in BY_NAME.items()}
    if str(law).lower() in named:
        return named[str(law).lower()]
    if Path(law).is_file():
        return ScalingLaw.load(law)
    raise LawArgumentError(f"law={law}: no such file, and no published law; there are {', '.join(BY_NAME)}")


def peak_learning_rate(
    law: AnyLaw | str | Path,
    params: float,
    tokens: float,
    batch_tokens: float | None = None,
    optimizer: str = "adamw",
) -> Peak:
    """Best peak learning rate by a law, at a given batch or at the law's own best batch B*.

    A fitted law moves the rate as (B / B*)^a with its own exponent a: the minimum of `run_loss` at that
    batch. A published law moves it by Adam's square-root rule; one without a batch (Bjorck) keeps it.

    Args:
        law: what `fit_law` returns, its JSON file, or a published law or its name.
        params: N, non-embedding.
        tokens: D.
        batch_tokens: tokens a step; None for the law's.
        optimizer: its name; a law of another kind is refused (`kind_of`).

    Raises:
        LawError: the law has no learning rate, no batch or another optimizer, or a number is not positive.
    """
    for name, value in (("params", params), ("tokens", tokens), ("batch_tokens", batch_tokens)):
        if value is not None and not (isfinite(value) and value > 0):
            raise LawArgumentError(f"{name}={value} must be a positive number")
    found = find_law(law)
    if isinstance(found, PublishedLaw):
        return _published_peak(found, params, tokens, batch_tokens, optimizer)
    if isinstance(found, LawsByOptimizer):
        found = _of_optimizer(found, optimizer)
    if found.optimizer and kind_of(found.optimizer) != kind_of(optimizer):
        raise LawError(f"the law was fitted to runs of {found.optimizer} and does not hold for {optimizer}")
    if not all(found.has_role[2:]):
        raise LawError("the law's runs have no learning rate or no batch, so it has no peak")
    best = found.recommend(params, tokens)
    batch = best.batch_tokens if batch_tokens is None else float(batch_tokens)
    return Peak(best.learning_rate_at(batch), batch, "fitted law")


def _published_peak(
    law: PublishedLaw, params: float, tokens: float, batch_tokens: float | None, optimizer: str
) -> Peak:
    if law.learning_rate is None:
        known = ", ".join(name for name, other in BY_NAME.items() if other.learning_rate is not None)
        raise LawError(f"{law.name} has no learning rate; these laws do: {known}")
    if kind_of(optimizer) not in map(kind_of, law.optimizers):
        kind = {"sgd": "SGD", "muon": "Muon"}.get(kind_of(optimizer), optimizer)
        raise LawError(
            f"{law.name} is a law of Adam's learning rate: for {kind}, fit a law to runs of {kind}"
        )
    recipe = law.recipe(params, tokens)
    batch = recipe.batch_tokens if batch_tokens is None else float(batch_tokens)
    if batch is None:
        raise LawError(f"{law.name} has no batch: give batch_tokens")
    off = 1.0 if recipe.batch_tokens is None else batch / recipe.batch_tokens
    return Peak(recipe.learning_rate * off**ADAM_BATCH_EXPONENT, batch, law.name)


def _of_optimizer(laws: LawsByOptimizer, optimizer: str) -> ScalingLaw:
    fitting = [name for name in laws if kind_of(name) == kind_of(optimizer)]
    chosen = [optimizer] if optimizer in laws else fitting
    if len(chosen) != 1:
        raise LawError(f"these laws are of {', '.join(laws)}: pass the one for {optimizer}")
    return laws[chosen[0]]


def kind_of(optimizer: str) -> str:
    """Which of `muon`, `sgd` and `adam` an optimizer's rates go by; also by the name of PyTorch's class.

    Adam, AdamW and NAdam are of one kind: their steps are as large as each other's.
    """
    return next((kind for kind in ("muon", "sgd") if kind in optimizer.lower()), "adam")
