"""Is the difference between two runs more than luck?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 9_999
SEED = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """`mean` is the second run's mean less the first's, over `questions` that both have; `low` and `high` are its 95 %
    bootstrap interval. `p` is the share of random swaps between the runs that differ at least as much (two-sided)."""

    questions: int
    mean: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        """At the level 0.05."""
        return self.p < 0.05

    def __str__(self) -> str:
        verdict = "significant" if self.significant else "not significant"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] p {self.p:.4f} ({verdict})"


def compare(before: Mapping[str, float], after: Mapping[str, float]) -> Difference:
    """Question id → value of each run. The paired randomization test, which Smucker, Allan and Carterette (CIKM 2007)
    recommend for this. Raises ValueError where the runs share no question."""
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ValueError("the runs have no question in common")
    gains = np.array([after[question] - before[question] for question in shared])
    mean = float(gains.mean())
    if len(shared) == 1 or not gains.any():
        return Difference(len(shared), mean, mean, mean, 1.0)
    # One sample under "samples" swaps signs, which is what swapping a pair does to its difference.
    test = stats.permutation_test(
        (gains,), _mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=SEED
    )
    interval = stats.bootstrap(
        (gains,), _mean, method="percentile", vectorized=True, n_resamples=RESAMPLES, batch=500, rng=SEED
    ).confidence_interval
    return Difference(len(shared), mean, float(interval.low), float(interval.high), float(test.pvalue))


def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(values.mean(axis=axis))
