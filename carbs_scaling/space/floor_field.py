"""What a loss law's floor misses: a smooth field over N, D and the shape at given N and D.

No law of N and D is exact, and what it misses at one size says little about another: a surrogate that leaves
this out is sure of sizes that it has never seen, and lays it on N when a deeper model of twice the parameters
is no better. The field is a share of the reducible loss (the floor less E), so it has no unit and fades
towards the irreducible loss (Kennedy and O'Hagan 2001, a model's discrepancy).
"""

from dataclasses import dataclass

import numpy as np

# Distance in ln N and ln D, and share of a unit cube's side, over which the field forgets.
FLOOR_REACH = 1.5
SHAPE_REACH = 0.5


@dataclass(frozen=True)
class FloorField:
    """Which unit-cube columns are shape, and what of them N and D explain.

    Columns that say the same of the shape at given N, as width and depth do, count as often as they are many.

    Args:
        columns: of the unit cube that move the cost, such as width and depth, shape (k,).
        slopes: of these columns in ln N and ln D over the space, shape (2, k).
    """

    columns: np.ndarray
    slopes: np.ndarray

    @staticmethod
    def of(cube: np.ndarray, features: np.ndarray, columns: np.ndarray) -> "FloorField":
        """The field of a space, from points that are spread over it.

        Args:
            cube: unit-cube rows, shape (m, d).
            features: centred log features, shape (m, 4).
            columns: of `cube` that move the cost, shape (k,).
        """
        sizes = np.column_stack([features[:, :2], np.ones(len(features))])
        return FloorField(columns, np.linalg.lstsq(sizes, cube[:, columns], rcond=None)[0][:2])

    def places(self, cube: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Where runs lie in the field, in units of its reach.

        Args:
            cube: unit-cube rows, shape `batch_shape x n x d`.
            features: centred log features, shape `batch_shape x n x 4`.

        Returns:
            Shape `batch_shape x n x (2 + k)`.
        """
        shape = cube[..., self.columns] - features[..., :2] @ self.slopes
        return np.concatenate([features[..., :2] / FLOOR_REACH, shape / SHAPE_REACH], axis=-1)


def field_correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the field between places `batch_shape x n x k` and `batch_shape x m x k`; `batch_shape x n x m`."""
    squares = np.square(left).sum(axis=-1)[..., :, None] + np.square(right).sum(axis=-1)[..., None, :]
    return np.exp(-0.5 * np.maximum(squares - 2 * left @ np.swapaxes(right, -1, -2), 0.0))
