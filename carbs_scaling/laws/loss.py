"""The loss law of language-model training, with its valley in learning rate and batch size.

    L = E + [(A N^-alpha)^(1/gamma) + (C D^-beta)^(1/gamma)]^gamma
          + k_e(N, D) v(ln e - ln e*; r_e) + k_B(N, D) v(ln B - ln B*; r_B)
    ln e* = a0 + a1 ln N + a2 ln D + a3 ln B        ln B* = b0 + b1 ln D + b2 ln N
    v(u; r) = 2 (exp(r u) - r u - 1) / r^2          k(N, D) = k D^-kappa_D N^-kappa_N

N: non-embedding parameters, D: training tokens, e: peak learning rate, B: tokens a step. With gamma = 1 the
first line is Hoffmann et al. 2022 (arXiv 2203.15556, approach 3); smaller gamma lets the larger of the two
lacks rule, up to Kaplan et al. 2020 (arXiv 2001.08361, equation 1.5) with E = 0 and gamma = beta. v is the
LINEX loss (Varian 1975): u^2 near its floor, exponential on one side and linear on the other, since too high
a learning rate hurts more than too low a one and too large a batch leaves too few steps. Inside, everything
is taken relative to a centre (ln N0, ln D0, ln e0, ln B0), where the parameters are least correlated.
"""

from dataclasses import asdict, dataclass
from math import exp

import numpy as np

ROLES = ("params", "tokens", "learning_rate", "batch_tokens")

PARAMETERS = (
    "E",
    "ln_A",
    "ln_alpha",
    "ln_C",
    "ln_beta",
    "ln_k_e",
    "r_e",
    "a0",
    "a1",
    "a2",
    "a3",
    "ln_k_B",
    "r_B",
    "b0",
    "b1",
    "b2",
    "kappa_D",
    "kappa_N",
    "ln_gamma",
)
INDEX = {name: i for i, name in enumerate(PARAMETERS)}

# Beyond this many nepers from its floor the valley is taken at this distance: keeps exp() finite.
_VALLEY_REACH = 9.0


@dataclass(frozen=True)
class LossLaw:
    """A fitted loss law.

    Args:
        theta: values of `PARAMETERS`, relative to `centre`; E and the amplitudes in units of the loss.
        centre: (ln N0, ln D0, ln e0, ln B0); 0 for a role that there is not.
        has_role: which of `ROLES` the runs had; terms of the others are absent.
        covariance: posterior covariance of `theta`, or None.
        residual_sd: root mean square of the runs around the law, in units of the loss.
    """

    theta: tuple[float, ...]
    centre: tuple[float, float, float, float]
    has_role: tuple[bool, bool, bool, bool]
    covariance: tuple[tuple[float, ...], ...] | None = None
    residual_sd: float = float("nan")

    def __post_init__(self) -> None:
        if len(self.theta) != len(PARAMETERS) or len(self.centre) != 4 or len(self.has_role) != 4:
            raise ValueError(f"a loss law has {len(PARAMETERS)} parameters, 4 centres and 4 roles")

    def parameter(self, name: str) -> float:
        """The value of one of `PARAMETERS`, relative to the centre."""
        return self.theta[INDEX[name]]

    @property
    def irreducible_loss(self) -> float:
        """E."""
        return self.parameter("E")

    @property
    def alpha(self) -> float:
        """Exponent of the parameters."""
        return exp(self.parameter("ln_alpha"))

    @property
    def beta(self) -> float:
        """Exponent of the tokens."""
        return exp(self.parameter("ln_beta"))

    @property
    def params_coefficient(self) -> float:
        """A, for N in parameters."""
        return exp(self.parameter("ln_A") + self.alpha * self.centre[0]) if self.has_role[0] else 0.0

    @property
    def tokens_coefficient(self) -> float:
        """C, for D in tokens."""
        return exp(self.parameter("ln_C") + self.beta * self.centre[1]) if self.has_role[1] else 0.0

    def best_batch_tokens(self, params, tokens):
        """Tokens a step at the floor of the valley, in the broadcast shape of `params` and `tokens`."""
        n, d = self._centred(0, params), self._centred(1, tokens)
        b = self.parameter("b0") + self.parameter("b1") * d + self.parameter("b2") * n
        return np.exp(self.centre[3] + b)

    def best_learning_rate(self, params, tokens, batch_tokens=None):
        """Peak learning rate at the floor of the valley; for the best batch where none is given."""
        n, d = self._centred(0, params), self._centred(1, tokens)
        if batch_tokens is None:
            b = self.parameter("b0") + self.parameter("b1") * d + self.parameter("b2") * n
        else:
            b = self._centred(3, batch_tokens)
        if not self.has_role[3]:
            b = 0.0
        e = (
            self.parameter("a0")
            + self.parameter("a1") * n
            + self.parameter("a2") * d
            + self.parameter("a3") * b
        )
        return np.exp(self.centre[2] + e)

    def loss(self, params, tokens, learning_rate=None, batch_tokens=None) -> np.ndarray:
        """Predicted losses. None for the learning rate or the batch means: at the floor of its valley."""
        if batch_tokens is None:
            batch_tokens = self.best_batch_tokens(params, tokens) if self.has_role[3] else 1.0
        if learning_rate is None:
            learning_rate = self.best_learning_rate(params, tokens, batch_tokens) if self.has_role[2] else 1.0
        columns = [
            self._centred(i, value) for i, value in enumerate((params, tokens, learning_rate, batch_tokens))
        ]
        columns = np.broadcast_arrays(*columns)
        features = np.stack([c.reshape(-1) for c in columns], axis=-1)
        return law_value(np.asarray(self.theta), features, self.has_role).reshape(columns[0].shape)

    @property
    def gamma(self) -> float:
        """How lack of parameters and lack of tokens combine: 1 adds them."""
        return exp(self.parameter("ln_gamma")) if self.has_role[0] and self.has_role[1] else 1.0

    def formula(self) -> str:
        """The law on one line, with the valley left out."""
        terms = []
        if self.has_role[0]:
            terms.append(f"{self.params_coefficient:.3g} N^-{self.alpha:.3f}")
        if self.has_role[1]:
            terms.append(f"{self.tokens_coefficient:.3g} D^-{self.beta:.3f}")
        if len(terms) == 2:
            terms = [
                f"[({terms[0]})^{1 / self.gamma:.2f} + ({terms[1]})^{1 / self.gamma:.2f}]^{self.gamma:.2f}"
            ]
        return " + ".join([f"L = {self.irreducible_loss:.3g}", *terms])

    def to_dict(self) -> dict:
        """As plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_dict(fields: dict) -> "LossLaw":
        """The inverse of `to_dict`, also after JSON has turned tuples into lists."""
        covariance = fields.get("covariance")
        return LossLaw(
            theta=tuple(fields["theta"]),
            centre=tuple(fields["centre"]),
            has_role=tuple(fields["has_role"]),
            covariance=None if covariance is None else tuple(tuple(row) for row in covariance),
            residual_sd=fields.get("residual_sd", float("nan")),
        )

    def _centred(self, role: int, value) -> np.ndarray:
        if not self.has_role[role]:
            return np.zeros(np.shape(value))
        return np.log(np.asarray(value, dtype=float)) - self.centre[role]


def law_value(theta: np.ndarray, features: np.ndarray, has_role) -> np.ndarray:
    """Losses at centred log features (n, 4) in the order of `ROLES`.

    Args:
        theta: `PARAMETERS`, shape `batch_shape x 19`.
        features: shape (n, 4).
        has_role: which of `ROLES` there are.

    Returns:
        Shape `batch_shape x n`.
    """
    p = dict(zip(PARAMETERS, np.moveaxis(np.asarray(theta), -1, 0)[..., None], strict=True))
    n, d, e, b = features.T
    value = law_floor(theta, features, has_role)
    flattening = -p["kappa_D"] * d - p["kappa_N"] * n
    if has_role[2]:
        offset = e - p["a0"] - p["a1"] * n - p["a2"] * d - p["a3"] * b
        value = value + np.exp(_bounded(p["ln_k_e"] + flattening)) * valley_depth(offset, p["r_e"])
    if has_role[3]:
        offset = b - p["b0"] - p["b1"] * d - p["b2"] * n
        value = value + np.exp(_bounded(p["ln_k_B"] + flattening)) * valley_depth(offset, p["r_B"])
    return value


def law_floor(theta: np.ndarray, features: np.ndarray, has_role) -> np.ndarray:
    """Losses at the floor of the valleys, the first line of the law; shapes as in `law_value`."""
    p = dict(zip(PARAMETERS, np.moveaxis(np.asarray(theta), -1, 0)[..., None], strict=True))
    by_params, by_tokens = _log_lacks(p, features[:, 0], features[:, 1])
    if has_role[0] and has_role[1]:
        gamma = np.exp(_bounded(p["ln_gamma"]))
        lack = np.exp(_bounded(gamma * np.logaddexp(by_params / gamma, by_tokens / gamma)))
    elif has_role[0] or has_role[1]:
        lack = np.exp(by_params if has_role[0] else by_tokens)
    else:
        lack = np.zeros(len(features))
    return p["E"] + lack


def _log_lacks(p: dict, n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln A N^-alpha and ln C D^-beta."""
    return (
        _bounded(p["ln_A"] - np.exp(_bounded(p["ln_alpha"])) * n),
        _bounded(p["ln_C"] - np.exp(_bounded(p["ln_beta"])) * d),
    )


def _bounded(exponent):
    # Half the time of np.clip on the small arrays of a fit, which asks for it some ten thousand times.
    return np.minimum(np.maximum(exponent, -60.0), 60.0)


def best_batch_feature(theta: np.ndarray, features: np.ndarray) -> np.ndarray:
    """ln B* less its centre, shape (n,), of one theta (19,) or one each (n, 19), at features (n, 4)."""
    p = dict(zip(PARAMETERS, np.moveaxis(np.asarray(theta), -1, 0), strict=True))
    return p["b0"] + p["b1"] * features[:, 1] + p["b2"] * features[:, 0]


def best_rate_feature(theta: np.ndarray, features: np.ndarray) -> np.ndarray:
    """ln e* less its centre at the features' own batch; shapes as in `best_batch_feature`."""
    p = dict(zip(PARAMETERS, np.moveaxis(np.asarray(theta), -1, 0), strict=True))
    n, d, _, b = features.T
    return p["a0"] + p["a1"] * n + p["a2"] * d + p["a3"] * b


def valley_curvatures(theta: np.ndarray, features: np.ndarray, has_role) -> tuple[np.ndarray, np.ndarray]:
    """Loss per squared neper off the best learning rate and batch, each of shape (n,); 0 where absent."""
    p = dict(zip(PARAMETERS, theta, strict=True))
    flattening = -p["kappa_D"] * features[:, 1] - p["kappa_N"] * features[:, 0]
    rate, batch = (np.exp(_bounded(p[name] + flattening)) for name in ("ln_k_e", "ln_k_B"))
    return rate * has_role[2], batch * has_role[3]


def law_jacobian(theta: np.ndarray, features: np.ndarray, has_role) -> tuple[np.ndarray, np.ndarray]:
    """Losses (n,) of one `theta` (19,) and their derivatives by `PARAMETERS` (n, 19)."""
    p = dict(zip(PARAMETERS, theta, strict=True))
    n, d, e, b = features.T
    slopes = np.zeros((len(features), len(PARAMETERS)))
    value = law_floor(theta, features, has_role)
    slopes[:, INDEX["E"]] = 1.0
    _lack_slopes(p, n, d, value - p["E"], slopes, has_role)
    flattening = -p["kappa_D"] * d - p["kappa_N"] * n
    rate_offset = e - p["a0"] - p["a1"] * n - p["a2"] * d - p["a3"] * b
    batch_offset = b - p["b0"] - p["b1"] * d - p["b2"] * n
    rate_moves = (("a0", 1.0), ("a1", n), ("a2", d), ("a3", b))
    batch_moves = (("b0", 1.0), ("b1", d), ("b2", n))
    valleys = (
        (has_role[2], "ln_k_e", "r_e", rate_offset, rate_moves),
        (has_role[3], "ln_k_B", "r_B", batch_offset, batch_moves),
    )
    for _, depth, skew, offset, moves in (v for v in valleys if v[0]):
        curvature = np.exp(_bounded(p[depth] + flattening))
        shape, by_offset, by_skew = valley(offset, p[skew])
        value += curvature * shape
        slopes[:, INDEX[depth]] = curvature * shape
        slopes[:, INDEX[skew]] = curvature * by_skew
        slopes[:, INDEX["kappa_D"]] -= d * curvature * shape
        slopes[:, INDEX["kappa_N"]] -= n * curvature * shape
        for name, factor in moves:
            slopes[:, INDEX[name]] = -curvature * by_offset * factor
    return value, slopes


def _lack_slopes(p: dict, n, d, lack: np.ndarray, slopes: np.ndarray, has_role) -> None:
    """Derivatives of what lacks in parameters and tokens, into the columns of `slopes`."""
    logs = _log_lacks(p, n, d)
    both = has_role[0] and has_role[1]
    gamma = np.exp(_bounded(p["ln_gamma"])) if both else 1.0
    # Share of each term under the outer power.
    by_params = 1 / (1 + np.exp(_bounded((logs[1] - logs[0]) / gamma))) if both else np.ones(len(n))
    terms = (
        (has_role[0], n, logs[0], by_params, "ln_A", "ln_alpha"),
        (has_role[1], d, logs[1], 1 - by_params if both else by_params, "ln_C", "ln_beta"),
    )
    by_gamma = np.log(np.maximum(lack, 1e-300))
    for _, x, log_term, share, amplitude, exponent in (term for term in terms if term[0]):
        slopes[:, INDEX[amplitude]] = lack * share
        slopes[:, INDEX[exponent]] = -lack * share * np.exp(_bounded(p[exponent])) * x
        by_gamma = by_gamma - share * log_term
    if both:
        slopes[:, INDEX["ln_gamma"]] = lack * by_gamma


def valley_depth(offset, skew) -> np.ndarray:
    """The first of `valley` alone: a proposal takes it some hundred thousand times."""
    u = np.minimum(np.maximum(offset, -_VALLEY_REACH), _VALLEY_REACH)
    small = np.abs(skew) < 1e-3
    r = np.where(small, 1.0, skew)
    x = np.minimum(np.maximum(r * u, -60.0), 8.0)
    depth = 2 * (np.expm1(x) - x) / (r * r)
    return np.where(small, u * u * (1 + skew * u / 3), depth) if small.any() else depth


def valley(offset, skew) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """LINEX valley v = 2 (exp(r u) - r u - 1) / r^2 with its derivatives by u and by r.

    Args:
        offset: u, any shape.
        skew: r, broadcastable to it.
    """
    u = np.clip(offset, -_VALLEY_REACH, _VALLEY_REACH)
    inside = np.abs(offset) < _VALLEY_REACH
    # The closed form cancels where r is small: its series is taken there.
    small = np.abs(skew) < 1e-3
    r = np.where(small, 1.0, skew)
    x = np.clip(r * u, -60.0, 8.0)
    grown = np.expm1(x)
    shape = np.where(small, u**2 * (1 + skew * u / 3), 2 * (grown - x) / r**2)
    by_offset = np.where(small, 2 * u + skew * u**2, 2 * grown / r)
    by_skew = np.where(small, u**3 / 3 + skew * u**4 / 6, 2 * u * grown / r**2 - 4 * (grown - x) / r**3)
    return shape, np.where(inside, by_offset, 0.0), by_skew
