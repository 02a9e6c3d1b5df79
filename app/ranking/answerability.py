"""Whether what was found can hold the answer: a few figures of the hits to a probability.

A logistic regression ("Platt scaling", Platt 1999): a probability is what a threshold can be set on,
and the few coefficients are a file that people can read. `python -m training.answerability` makes it; it holds for the
encoder, the mode of search and the kind of documents that it was made with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from contracts.types import Passage

CONSIDERED = 5
"""Hits whose similarities are looked at: as many as a question asks for when it does not say."""

TOP_PASSAGES = 3
"""Passages whose words are looked at: those that a small model answers from."""

FEATURES = ("best_cosine", "cosine_gap", "words_found", "words_in_one_sentence", "names_found")
"""What every mode of search gives. `bm25` is known only where terms were searched alone, as POST /search does."""

_WORD = re.compile(r"\w+")
_NAME = re.compile(r"\b(?:[A-Z]\w+|\d+)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")
_STEM = 5
_SHORT = 3


class CalibrationError(ValueError):
    """The file is none of `python -m training.answerability`, or is for another encoder; the message says which."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted regression. Feature i counts as `weights[i] * (value - means[i]) / scales[i]`."""

    encoder: str
    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    threshold: float
    """The probability below which to refuse: where at most a tenth of the answerable questions are refused."""
    fitted_on: str
    """Which questions, in words."""

    def probability(self, values: dict[str, float]) -> float:
        """That a question with these features can be answered. One that is not known counts as the mean."""
        logit = self.intercept + sum(
            weight * (values.get(name, mean) - mean) / scale
            for name, mean, scale, weight in zip(self.features, self.means, self.scales, self.weights, strict=True)
        )
        return 1 / (1 + math.exp(-logit)) if logit > 0 else 1 - 1 / (1 + math.exp(logit))


def read_calibration(path: Path) -> Calibration:
    """Raises CalibrationError, also where the numbers do not match the features."""
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError) as exc:
        raise CalibrationError(f"{path}: cannot be read as a calibration: {exc}") from exc
    lengths = {len(calibration.features), *map(len, (calibration.means, calibration.scales, calibration.weights))}
    if len(lengths) != 1 or not all(calibration.scales):
        raise CalibrationError(f"{path}: features, means, scales and weights do not belong together")
    return calibration


def features(question: str, passages: Sequence[Passage], bm25: float | None = None) -> dict[str, float]:
    """The figures of a question and the passages found for it; without passages all are 0.

    The passages are those of the search in its order: not yet cut to the relevant (a gap of similarities is between
    two, of which the second may be cut), reranked or arranged. Fitting and serving both must hand over these.

    best_cosine: the highest similarity; cosine_gap: its distance to the second highest; words_found: the share of the
    question's words in the first TOP_PASSAGES with their titles; words_in_one_sentence: the largest share in any one
    sentence of them; names_found: the share of the question's names and numbers, 1 where it has none. Words of up to
    three letters, which say little, count only where there are no others; of longer ones the first five letters count,
    which is a stemmer for many languages. `bm25` is the score of the best hit, where terms were searched.
    """
    cosines = sorted((passage.score for passage in passages[:CONSIDERED]), reverse=True)
    texts = [f"{passage.title}\n{passage.text}" for passage in passages[:TOP_PASSAGES]]
    asked = _stems(question)
    everything = set().union(*(_stems(text, short=True) for text in texts)) if texts else set()
    sentences = [_stems(sentence, short=True) for text in texts for sentence in _SENTENCE.split(text)]
    # The first word of a question is written with a capital whatever it is.
    names = {name[:_STEM].lower() for name in (match.group() for match in _NAME.finditer(question, 1))}
    found = {
        "best_cosine": cosines[0] if cosines else 0.0,
        "cosine_gap": cosines[0] - cosines[1] if len(cosines) > 1 else 0.0,
        "words_found": _share(asked, everything),
        "words_in_one_sentence": max((_share(asked, sentence) for sentence in sentences), default=0.0),
        "names_found": _share(names, everything) if names and passages else float(bool(passages)),
    }
    if bm25 is not None:
        found["bm25"] = bm25
    return found


def _stems(text: str, *, short: bool = False) -> set[str]:
    words = {word[:_STEM] for word in _WORD.findall(text.lower())}
    return words if short else {word for word in words if len(word) > _SHORT or word.isdigit()} or words


def _share(asked: set[str], found: set[str]) -> float:
    return len(asked & found) / len(asked) if asked else 0.0
