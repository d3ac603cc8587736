"""Published laws of the learning rate, the batch and the loss, by name and with their source.

N: non-embedding parameters, D: training tokens, C = 6 N D unless a law says otherwise; batches in tokens.
Each was fitted to its authors' own setting (data, vocabulary, schedule): beside a fitted law they show what
the field would do, not what is right here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

SEQUENCE_LENGTH = 2048  # of laws that count the batch in sequences
PUBLISHED_WEIGHT_DECAY = 0.1  # the usual one of AdamW, where a law needs it


@dataclass(frozen=True)
class PublishedRecipe:
    """What a published law says at one (N, D); None where it is silent."""

    learning_rate: float | None
    batch_tokens: float | None
    loss: float | None


@dataclass(frozen=True)
class PublishedLaw:
    """One law.

    Args:
        name: as the field calls it.
        source: paper, and what is uncertain about it.
        formula: as published, in this program's letters.
        learning_rate: of (N, D), or None.
        batch_tokens: of (N, D), or None.
        loss: of (N, D), or None.
        optimal_params: compute-optimal N of C, or None.
        loss_exponents: (alpha, beta, gamma) of `carbs_scaling.laws.form.law`, or None.
        fixed_batch: whether its learning rate is for one batch at every N and D, not for the best batch.
    """

    name: str
    source: str
    formula: str
    learning_rate: Callable[[float, float], float] | None = None
    batch_tokens: Callable[[float, float], float] | None = None
    loss: Callable[[float, float], float] | None = None
    optimal_params: Callable[[float], float] | None = None
    loss_exponents: tuple[float, float, float] | None = None
    fixed_batch: bool = False

    def recipe(self, params: float, tokens: float) -> PublishedRecipe:
        """What it says at N and D."""
        return PublishedRecipe(
            *(
                None if law is None else float(law(params, tokens))
                for law in (self.learning_rate, self.batch_tokens, self.loss)
            )
        )


def _kaplan_rate(params: float, tokens: float) -> float:
    """Linear in ln N, and below zero beyond 1e10 parameters: kept above a tenth of its value at 1e9."""
    return max(0.003239 - 0.0001395 * log(params), 3.5e-5)


def _kaplan_loss(params: float, tokens: float) -> float:
    """Equation 1.5: parameters and tokens combine to the power of the tokens' exponent."""
    return ((8.8e13 / params) ** (0.076 / 0.095) + 5.4e13 / tokens) ** 0.095


def _power_lines_batch(params: float, tokens: float) -> float:
    """The batch at which Step Law's rate and weight decay 0.1 give the best AdamW timescale."""
    timescale = 1.084 * (tokens / params) ** -0.527
    return timescale * BY_NAME["Step Law"].learning_rate(params, tokens) * PUBLISHED_WEIGHT_DECAY * tokens


def _chinchilla(E: float, A: float, alpha: float, B: float, beta: float) -> dict:
    total = alpha + beta
    balance = (alpha * A / (beta * B)) ** (1 / total)
    return {
        "loss": lambda n, d: E + A * n**-alpha + B * d**-beta,
        "optimal_params": lambda c: balance * (c / 6) ** (beta / total),
        "loss_exponents": (alpha, beta, 1.0),
    }


LAWS = (
    PublishedLaw(
        "Step Law",
        "arXiv 2503.04715",
        "lr = 1.79 N^-0.713 D^0.307; B = 0.58 D^0.571 tokens",
        learning_rate=lambda n, d: 1.79 * n**-0.713 * d**0.307,
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
        "Kaplan",
        "arXiv 2001.08361; the rate (appendix D.6) and the critical batch from memory",
        "lr = 0.003239 - 0.0001395 ln N; B_crit = 2e8 L^(-1/0.21) tokens; "
        "L = [(8.8e13/N)^(0.076/0.095) + 5.4e13/D]^0.095",
        learning_rate=_kaplan_rate,
        batch_tokens=lambda n, d: 2e8 / _kaplan_loss(n, d) ** (1 / 0.21),
        loss=_kaplan_loss,
        loss_exponents=(0.076, 0.095, 0.095),
    ),
    PublishedLaw(
        "Hoffmann",
        "arXiv 2203.15556 (Chinchilla, approach 3)",
        "L = 1.69 + 406.4 N^-0.34 + 410.7 D^-0.28",
        **_chinchilla(1.69, 406.4, 0.34, 410.7, 0.28),
    ),
    PublishedLaw(
        "Besiroglu",
        "arXiv 2404.10102 (Chinchilla's points, fitted again)",
        "L = 1.8172 + 482.01 N^-0.3478 + 2085.43 D^-0.3658",
        **_chinchilla(1.8172, 482.01, 0.3478, 2085.43, 0.3658),
    ),
    PublishedLaw(
        "Bjorck",
        "arXiv 2409.19913; the exponent alone, at fixed N and batch, anchored to Step Law at D = 20 N",
        "lr = lr_StepLaw(N, 20 N) (D / 20 N)^-0.32",
        learning_rate=lambda n, d: 1.79 * n**-0.713 * (20 * n) ** 0.307 * (d / (20 * n)) ** -0.32,
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
        "github.com/hlzhang109/critical-batch-size; sequences counted as 2,048 tokens",
        "B_crit = 93.2 (N / 1e6)^0.468 sequences",
        batch_tokens=lambda n, d: 93.2 * (n / 1e6) ** 0.468 * SEQUENCE_LENGTH,
    ),
)
BY_NAME = {law.name: law for law in LAWS}
