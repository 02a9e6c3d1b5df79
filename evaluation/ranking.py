"""How good a ranking is: passages to documents, and the figures of each question.

The measures are ir-measures' (MacAvaney et al., ECIR 2022), which asks trec_eval for most of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import ir_measures
from ir_measures import RR, R, Success, nDCG

from app.ranking.duplicates import shingles
from evaluation.sets import Judgements

MEASURES = {
    "ndcg@10": nDCG @ 10,
    "recall@10": R @ 10,
    "recall@100": R @ 100,
    "mrr@10": RR @ 10,
    "top-1": Success @ 1,
    "top-3": Success @ 3,
}
"""Names → measures, each 0 to 1 for a question. top-k: a relevant document is among the first k."""

_NAMES = {measure: name for name, measure in MEASURES.items()}
Figures = dict[str, float]


def documents_of(passages: Iterable[str]) -> list[str]:
    """The documents of these passages (given by their documents' ids, best first), each where its best passage is
    ("MaxP": Dai and Callan, SIGIR 2019)."""
    return list(dict.fromkeys(passages))


def figures_of(rankings: Mapping[str, Sequence[str]], judgements: Judgements) -> dict[str, Figures]:
    """Question id → its figures. `rankings` are documents, best first; all its questions must have judgements, and a
    question that found nothing scores 0."""
    run = [
        # trec_eval sorts by score and breaks ties by id, so ranks become scores without ties.
        ir_measures.ScoredDoc(question, document, -rank)
        for question, documents in rankings.items()
        for rank, document in enumerate(documents, start=1)
    ]
    qrels = [
        ir_measures.Qrel(question, document, score)
        for question in rankings
        for document, score in judgements[question].items()
    ]
    figures: dict[str, Figures] = {question: dict.fromkeys(MEASURES, 0.0) for question in rankings}
    for metric in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        figures[metric.query_id][_NAMES[metric.measure]] = float(metric.value)
    return figures


def repeats(texts: Sequence[str], resemblance: float = 0.8) -> float:
    """The share of these passages that repeat one before them: that have at least `resemblance` of their five-word runs
    in common with it (app/ranking/duplicates.py)."""
    seen: list[set[tuple[str, ...]]] = []
    repeated = 0
    for own in map(shingles, texts):
        repeated += any(own and len(own & other) >= resemblance * len(own | other) for other in seen)
        seen.append(own)
    return repeated / len(texts) if texts else 0.0


def mean_of(figures: Mapping[str, Mapping[str, float]]) -> Figures:
    """The mean of each figure over the questions that have it."""
    names = dict.fromkeys(name for row in figures.values() for name in row)
    return {name: fmean(row[name] for row in figures.values() if name in row) for name in names}
