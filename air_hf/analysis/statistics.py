"""Means with their spread, the one way every table and figure of analyses states them."""

from dataclasses import asdict, dataclass

import numpy as np

Z_95 = 1.96  # standard errors on either side of a mean that make a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A mean over puzzles.

    Args:
        mean (`float`): NaN where there is nothing to average.
        std (`float`): standard deviation over puzzles (n − 1); NaN below two.
        sem (`float`): standard error, std / √n.
        count (`int`): puzzles n.
    """

    mean: float
    std: float
    sem: float
    count: int

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval."""
        return Z_95 * self.sem

    def to_dict(self) -> dict:
        return {name: None if value != value else value for name, value in asdict(self).items()}


def estimate(values) -> Estimate:
    """Mean, standard deviation and standard error of one number a puzzle (n,); NaN are left out."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    count = len(values)
    std = float(values.std(ddof=1)) if count > 1 else float("nan")
    return Estimate(float(values.mean()) if count else float("nan"), std, std / max(count, 1) ** 0.5, count)
