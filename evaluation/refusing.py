"""What a threshold on the similarity of the best passage would refuse. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

ANSWERABLE = "similarity_answerable"
UNANSWERABLE = "similarity_unanswerable"

_ROUNDING = 1e-9
"""Far less than one question's share."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """Refusing below `threshold` refuses these shares of the questions that can and cannot be answered."""

    threshold: float
    answerable: float
    unanswerable: float

    def __str__(self) -> str:
        return (
            f"below {self.threshold:.3f}: refuses {self.unanswerable:.3f} of the unanswerable and "
            f"{self.answerable:.3f} of the answerable"
        )


def auc(answerable: Mapping[str, float], unanswerable: Mapping[str, float]) -> float:
    """How often a question that can be answered finds something more similar than one that cannot: 0.5 is chance."""
    return float(roc_auc_score(*_labelled(answerable, unanswerable)))


def curve(answerable: Mapping[str, float], unanswerable: Mapping[str, float]) -> tuple[Floats, Floats, Floats]:
    """Shares of answerable and of unanswerable questions refused, and the threshold, from none refused to all."""
    labels, scores = _labelled(answerable, unanswerable)
    kept_wrongly, kept_rightly, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    return (1 - kept_rightly)[::-1], (1 - kept_wrongly)[::-1], thresholds[::-1]


def at_cost(answerable: Mapping[str, float], unanswerable: Mapping[str, float], cost: float) -> Point:
    """The threshold that refuses most of the unanswerable with at most the share `cost` of the answerable; of several,
    the one that refuses fewest of these."""
    wrong, right, thresholds = curve(answerable, unanswerable)
    # The shares are 1 less what is kept: 2 of 40 come out as a little more than 0.05.
    most = right[wrong <= cost + _ROUNDING].max()
    best = int(np.flatnonzero(right >= most - _ROUNDING)[0])
    return Point(float(thresholds[best]), float(wrong[best]), float(right[best]))


def at_threshold(answerable: Mapping[str, float], unanswerable: Mapping[str, float], threshold: float) -> Point:
    """What this threshold refuses."""
    wrong, right = (np.array(list(scores.values())) < threshold for scores in (answerable, unanswerable))
    return Point(threshold, float(wrong.mean()), float(right.mean()))


def _labelled(answerable: Mapping[str, float], unanswerable: Mapping[str, float]) -> tuple[Floats, Floats]:
    labels = np.repeat([1.0, 0.0], [len(answerable), len(unanswerable)])
    return labels, np.array([*answerable.values(), *unanswerable.values()])
