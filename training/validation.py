"""How well candidates are ordered before and after reranking, on the questions that were held out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.ranking.prior import with_prior
from training.mining import Mined

DEPTH = 10


@dataclass(frozen=True, slots=True)
class Order:
    """Mean nDCG@10 over `questions` of one set: in the search's order and in the reranker's."""

    set: str
    questions: int
    searched: float
    reranked: float


def held_out(mined: Sequence[Mined], most: int | None = None) -> list[Mined]:
    """The validation questions: of each set the first `most`, which were drawn by chance when they were mined."""
    counts: Counter[str] = Counter()
    held = []
    for each in mined:
        if each.part == "validation" and (most is None or counts[each.set] < most):
            counts[each.set] += 1
            held.append(each)
    return held


def validate(
    model: Any, mined: Sequence[Mined], candidates: int, prior: float = 0.0, batch_pairs: int = 32
) -> list[Order]:
    """For each set, the order of the first `candidates` of its validation questions; reranked as a gateway does whose
    PHAROS_RERANK_PRIOR is `prior`. A question none of whose documents was found counts as zero in both."""
    held = held_out(mined)
    pairs = [[each.question.text, c.text] for each in held for c in each.candidates[:candidates]]
    scores = iter(_probabilities(model, pairs, batch_pairs) if pairs else [])
    found: dict[str, list[tuple[float, float]]] = {}
    for each in held:
        documents = [c.document for c in each.candidates[:candidates]]
        weighed = with_prior([float(next(scores)) for _ in documents], prior)
        scored = sorted(((score, -i) for i, score in enumerate(weighed)), reverse=True)
        relevant = each.question.relevant
        reranked = [documents[-i] for _, i in scored]
        found.setdefault(each.set, []).append((ndcg(documents, relevant), ndcg(reranked, relevant)))
    return [
        Order(name, len(rows), sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows) / len(rows))
        for name, rows in found.items()
    ]


def _probabilities(model: Any, pairs: Sequence[Sequence[str]], batch_pairs: int) -> Any:
    """As app_llm/reranker.py has them: a prior needs them, and a model may be saved with another activation."""
    import torch

    return model.predict(pairs, batch_size=batch_pairs, activation_fn=torch.nn.Sigmoid(), show_progress_bar=False)


def ndcg(documents: Sequence[str], relevant: frozenset[str]) -> float:
    """nDCG@10 with binary gains (Järvelin and Kekäläinen, TOIS 2002). A document counts at its best passage only."""
    ranked = list(dict.fromkeys(documents))[:DEPTH]
    gained = sum(1 / math.log2(rank + 2) for rank, document in enumerate(ranked) if document in relevant)
    return gained / sum(1 / math.log2(rank + 2) for rank in range(min(DEPTH, len(relevant))))
