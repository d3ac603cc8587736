"""What is known of an optimizer's best learning rate before any run: one named prior each.

Step Law and DeepSeek were fitted to runs of AdamW, and give its prior. For the others papers give no law of
N and D; what they do give is in `source`, and the prior is as wide as that leaves it.
"""

from dataclasses import dataclass, replace
from math import hypot, log, sqrt

MeanSd = tuple[float, float]


@dataclass(frozen=True)
class RatePrior:
    """Prior of a best learning rate as normal distributions, each (mean, standard deviation).

    Args:
        name: of the optimizer, and of the parametrization where it is not the standard one.
        source: what it rests on.
        level: ln of the best rate over that of AdamW's published laws.
        in_params: exponent in N, at the best batch.
        in_tokens: exponent in D, at the best batch.
        in_batch: exponent in the batch, off the best one.
        base_params: N at which the level is that of the published laws; None for the N at hand.
        rate: learning rate that `level` is relative to; None for that of the published laws.
    """

    name: str
    source: str
    level: MeanSd = (0.0, 2.0)
    in_params: MeanSd = (-0.45, 0.26)
    in_tokens: MeanSd = (0.1, 0.21)
    in_batch: MeanSd = (0.4, 0.2)
    base_params: float | None = None
    rate: float | None = None


ADAMW = RatePrior(
    "adamw",
    "Step Law (arXiv 2503.04715) and DeepSeek (2401.02954), one standard deviation to either side; the root "
    "of the batch (2205.10287), less beyond the critical batch",
)
RATE_PRIORS = {
    prior.name: prior
    for prior in (
        ADAMW,
        RatePrior(
            "adam",
            "AdamW's: without decay the steps are the same; Kaplan's rates (2001.08361) lie inside",
            in_params=(-0.45, 0.3),
        ),
        RatePrior(
            "nadam",
            "no published law; steps are as large as Adam's (Dozat 2016): its prior, wider",
            level=(0.0, 2.1),
            in_params=(-0.45, 0.35),
            in_tokens=(0.1, 0.25),
        ),
        RatePrior(
            "muon",
            "no law of N and D; steps are as large as AdamW's, so that its rates serve (2502.16982): its "
            "prior, wider",
            level=(0.0, 2.1),
            in_params=(-0.4, 0.35),
            in_tokens=(0.1, 0.25),
        ),
        RatePrior(
            "sgd",
            "no published law for language models: wide. In proportion to the batch (1706.02677), less "
            "beyond the critical batch. The level is of this program's own runs, 25 times AdamW's "
            "(docs/benchmarks-laws.md)",
            level=(3.2, 3.0),
            in_params=(0.0, 0.5),
            in_tokens=(0.0, 0.4),
            in_batch=(0.7, 0.3),
        ),
    )
}
# Optimizers whose steps are as large as AdamW's, so that published laws of its rates speak of theirs too.
LIKE_ADAMW = frozenset({"adamw", "adam", "nadam"})
# With muP the best rate hardly moves with width, with CompleteP neither with depth. N grows with both.
WIDTH_FREE = {"mup": (0.0, 0.15), "completep": (0.0, 0.1)}

# Best rates of fine-tuning all weights go as a power of the width, from this one; with adapters they are so
# many times as high, at any rank ("LoRA Without Regret", 2025: powers of .78 for Llama and .08 for Qwen).
FINETUNED_RATE, FINETUNED_WIDTH, ADAPTERS_FACTOR = 5e-5, 2000, 10.0
_WIDTH_POWER = (-0.43, 0.35)
# Between tasks, one standard deviation in logs. BERT's 2e-5 to 5e-5 for classification lie .4 to 1.3
# deviations below the middle at its width.
_TASKS_SD = 1.0


def rate_prior(
    optimizer: str = "",
    parametrization: str = "standard",
    base_params: float | None = None,
    finetuned_width: int | None = None,
    adapters: bool = False,
) -> RatePrior:
    """The prior of an optimizer's best rate; AdamW's where it is not known.

    Args:
        optimizer: its name.
        parametrization: `standard`, `mup` or `completep`.
        base_params: N of the shape at which the parametrization is as standard.
        finetuned_width: hidden size, positive, of the model that is trained further; None for one from
            scratch.
        adapters: whether adapters are trained beside it, instead of its weights.
    """
    prior = RATE_PRIORS.get(optimizer, ADAMW)
    if finetuned_width is not None:
        away = log(finetuned_width / FINETUNED_WIDTH)
        # Other optimizers than AdamW are as far from it, and as much less known, as from scratch.
        more = sqrt(max(prior.level[1] ** 2 - ADAMW.level[1] ** 2, 0.0))
        less_known = hypot(_TASKS_SD, _WIDTH_POWER[1] * away, more)
        return replace(
            prior,
            name=f"{prior.name} fine-tuning{', adapters' if adapters else ''}",
            source="LoRA Without Regret (2025) and BERT (1810.04805), a factor of e between tasks",
            rate=FINETUNED_RATE * (ADAPTERS_FACTOR if adapters else 1.0),
            level=(prior.level[0] + _WIDTH_POWER[0] * away, less_known),
            in_params=(0.0, 0.15) if adapters else (_WIDTH_POWER[0] / 2, 0.25),
            in_tokens=(0.0, max(0.25, prior.in_tokens[1])),
        )
    if parametrization not in WIDTH_FREE:
        return prior
    return replace(
        prior,
        name=f"{prior.name} {parametrization}",
        source=f"{prior.source}; in N by {parametrization} (2203.03466, 2505.01618)",
        in_params=WIDTH_FREE[parametrization],
        base_params=base_params,
    )
