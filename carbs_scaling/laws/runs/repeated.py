"""Text that a run sees again and again, and what it is worth (Muennighoff et al. 2023, arXiv 2305.16264)."""

import numpy as np

# R_D* of their fit: passes over the text after which another one brings 1/e of what new text would.
FADING = 15.387756


def effective_tokens(tokens: np.ndarray, unique: np.ndarray) -> np.ndarray:
    """D' = U + U R* (1 - exp(-R / R*)) with R = D / U - 1 repeats (their equation 5), of the shape of D.

    Args:
        tokens: D, shape (n,).
        unique: U, tokens of the text, shape (n,); NaN, or at least D, where nothing was repeated.
    """
    seen = np.where(np.isfinite(unique) & (unique > 0), np.minimum(unique, tokens), tokens)
    repeats = tokens / seen - 1
    return np.asarray(seen * (1 - FADING * np.expm1(-repeats / FADING)))
