"""Published laws of the learning rate, the batch and the loss, by name and with their source.

N: non-embedding parameters, D: training tokens, C = 6 N D unless a law says otherwise; batches in tokens.
Each was fitted to its authors' own setting (data, vocabulary, schedule): beside a fitted law they show what
the field would do, not what is right here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

from carbs_scaling.laws.prior.rates import LIKE_ADAMW

PUBLISHED_WEIGHT_DECAY = 0.1  # the usual one of AdamW, where a law needs it


@dataclass(frozen=True)
class PublishedRecipe:
    """What a published law says at one (N, D); None where it is silent."""

    learning_rate: float | None
    batch_tokens: float | None
    loss: float | None


@dataclass(frozen=True)
class PublishedFloor:
    """L = E + [(A N^-alpha)^(1/gamma) + (B D^-beta)^(1/gamma)]^gamma.

    Args:
        E: irreducible loss in nats a token.
        A: coefficient of the parameters.
        alpha: exponent of the parameters.
        B: coefficient of the tokens.
        beta: exponent of the tokens.
        gamma: how the two combine; 1 adds them.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    gamma: float = 1.0

    def loss(self, params: float, tokens: float) -> float:
        """L at N and D."""
        by_params, by_tokens = self.A * params**-self.alpha, self.B * tokens**-self.beta
        return float(self.E + (by_params ** (1 / self.gamma) + by_tokens ** (1 / self.gamma)) ** self.gamma)


@dataclass(frozen=True)
class PublishedLaw:
    """One law.

    Args:
        name: as the field calls it.
        source: paper, and what is uncertain about it.
        formula: as published, in this program's letters.
        learning_rate: of (N, D), or None.
        batch_tokens: of (N, D), or None.
        floor: of the loss in nats a token, or None.
        fixed_batch: whether its learning rate is for one batch at every N and D, not for the best batch.
        optimizers: names of those whose learning rate it gives.
    """

    name: str
    source: str
    formula: str
    learning_rate: Callable[[float, float], float] | None = None
    batch_tokens: Callable[[float, float], float] | None = None
    floor: PublishedFloor | None = None
    fixed_batch: bool = False
    optimizers: frozenset[str] = LIKE_ADAMW

    @property
    def loss(self) -> Callable[[float, float], float] | None:
        """Loss of (N, D), or None."""
        return None if self.floor is None else self.floor.loss

    def recipe(self, params: float, tokens: float) -> PublishedRecipe:
        """What it says at N and D."""
        return PublishedRecipe(
            *(
                None if law is None else float(law(params, tokens))
                for law in (self.learning_rate, self.batch_tokens, self.loss)
            )
        )


def zhang_critical_batch(params: float) -> float:
    """93.2 (N / 1e6)^0.468 sequences of 512 tokens, in tokens (github.com/hlzhang109/critical-batch-size).

    For compute-optimal runs; at fixed N the authors find that the critical batch grows with D.
    """
    return float(93.2 * (params / 1e6) ** 0.468 * 512)


def kaplan_critical_batch(loss: float) -> float:
    """2e8 L^(-1 / 0.21) tokens, L in nats a token of their vocabulary (arXiv 2001.08361, equation 1.4)."""
    return float(2e8 * loss ** (-1 / 0.21))


def _kaplan_rate(params: float, tokens: float) -> float:
    """Linear in ln N, and below zero beyond 1e10 parameters: kept above a tenth of its value at 1e9."""
    return max(0.003239 - 0.0001395 * log(params), 3.5e-5)


def _step_law_rate(params: float, tokens: float) -> float:
    return float(1.79 * params**-0.713 * tokens**0.307)


def _power_lines_batch(params: float, tokens: float) -> float:
    """The batch at which Step Law's rate and weight decay 0.1 give the best AdamW timescale."""
    timescale = 1.084 * (tokens / params) ** -0.527
    return timescale * _step_law_rate(params, tokens) * PUBLISHED_WEIGHT_DECAY * tokens


# The joint law has constants of its own: equation 1.5, table 2.
_KAPLAN_FLOOR = PublishedFloor(0.0, 6.4e13**0.076, 0.076, 1.8e13**0.103, 0.103, gamma=0.103)


LAWS = (
    PublishedLaw(
        "Step Law",
        "arXiv 2503.04715",
        "lr = 1.79 N^-0.713 D^0.307; B = 0.58 D^0.571 tokens",
        learning_rate=_step_law_rate,
        batch_tokens=lambda n, d: 0.58 * d**0.571,
    ),
    PublishedLaw(
        "DeepSeek",
        "arXiv 2401.02954; there C counts non-embedding FLOPs with attention, here 6 N D",
        "lr = 0.3118 C^-0.1250; B = 0.2920 C^0.3271 tokens",
        learning_rate=lambda n, d: 0.3118 * (6 * n * d) ** -0.125,
        batch_tokens=lambda n, d: 0.2920 * (6 * n * d) ** 0.3271,
    ),
    PublishedLaw(
        "OpenEuroLLM",
        "this program's fit to 48 of the 51 optima in data/best_HPs/lr_gbsz_min_smooth.csv of "
        "github.com/OpenEuroLLM/dense_english_scaling_laws (not the last three of 1.7e9 parameters, which "
        "jump); rates of constant runs, annealed",
        "lr = 0.491 N^-0.426 D^0.081; B = 0.422 N^0.146 D^0.458 tokens",
        learning_rate=lambda n, d: 0.4914 * n**-0.4256 * d**0.0813,
        batch_tokens=lambda n, d: 0.4220 * n**0.1457 * d**0.4579,
    ),
    PublishedLaw(
        "Lingle",
        "this program's fit to 18 optima of 4.6e7 to 2.9e9 parameters in the third part of 'Scaling Laws for "
        "Optimal LR and Batch Size' (lucaslingle.substack.com; code github.com/lucaslingle/babel)",
        "lr = 0.0628 N^-0.477 D^0.262; B = 0.365 N^0.050 D^0.574 tokens",
        learning_rate=lambda n, d: 0.06282 * n**-0.4770 * d**0.2616,
        batch_tokens=lambda n, d: 0.3650 * n**0.0505 * d**0.5742,
    ),
    PublishedLaw(
        "Moonlight",
        "this program's fit to table 2 of arXiv 2502.16982 (rates within 0.2%, batches within 5%): swept "
        "with AdamW and used with Muon, whose steps are made as large; there N and D rise together",
        "lr = 0.00798 C^-0.0478; B = 0.2425 C^0.3369 tokens",
        learning_rate=lambda n, d: 0.007981 * (6 * n * d) ** -0.04782,
        batch_tokens=lambda n, d: 0.2425 * (6 * n * d) ** 0.33688,
        optimizers=LIKE_ADAMW | {"muon"},
    ),
    PublishedLaw(
        "Kaplan",
        "arXiv 2001.08361; the rate (appendix D.6) and the critical batch from memory",
        "lr = 0.003239 - 0.0001395 ln N; B_crit = 2e8 L^(-1/0.21) tokens; "
        "L = [(6.4e13/N)^(0.076/0.103) + 1.8e13/D]^0.103",
        learning_rate=_kaplan_rate,
        batch_tokens=lambda n, d: kaplan_critical_batch(_KAPLAN_FLOOR.loss(n, d)),
        floor=_KAPLAN_FLOOR,
    ),
    PublishedLaw(
        "Hoffmann",
        "arXiv 2203.15556 (Chinchilla, approach 3)",
        "L = 1.69 + 406.4 N^-0.34 + 410.7 D^-0.28",
        floor=PublishedFloor(1.69, 406.4, 0.34, 410.7, 0.28),
    ),
    PublishedLaw(
        "Besiroglu",
        "arXiv 2404.10102 (Chinchilla's points, fitted again)",
        "L = 1.8172 + 482.01 N^-0.3478 + 2085.43 D^-0.3658",
        floor=PublishedFloor(1.8172, 482.01, 0.3478, 2085.43, 0.3658),
    ),
    PublishedLaw(
        "Bjorck",
        "arXiv 2409.19913; the exponent alone, at fixed N and batch, anchored to Step Law at D = 20 N",
        "lr = lr_StepLaw(N, 20 N) (D / 20 N)^-0.32",
        learning_rate=lambda n, d: _step_law_rate(n, 20 * n) * (d / (20 * n)) ** -0.32,
        fixed_batch=True,
    ),
    PublishedLaw(
        "Power Lines",
        "arXiv 2505.13738, with weight decay 0.1 and Step Law's rate",
        "B / (lr wd D) = 1.084 (D/N)^-0.527",
        batch_tokens=_power_lines_batch,
    ),
    PublishedLaw(
        "critical batch",
        "github.com/hlzhang109/critical-batch-size; sequences of 512 tokens",
        "B_crit = 93.2 (N / 1e6)^0.468 sequences",
        batch_tokens=lambda n, d: zhang_critical_batch(n),
    ),
)
BY_NAME = {law.name: law for law in LAWS}
