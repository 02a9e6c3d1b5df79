"""A reranker's scores, with the order of the search as what was believed before."""

from __future__ import annotations

from collections.abc import Sequence


def with_prior(scores: Sequence[float], exponent: float) -> list[float]:
    """`scores`, probabilities in the order of the search, with the odds of rank r (from 1) divided by r^`exponent`.

    That is Bayes' rule, where the search's order is the prior (a power law, as relevance by rank is) and the reranker's
    odds are the evidence. Like any sum of a first stage's score and a reranker's logit it keeps what the search knows
    and the reranker does not (Askari et al., "Injecting the BM25 score as text improves BERT-based re-rankers", ECIR
    2023, compares such sums), and the surer a reranker is, the less it changes: odds of large models lie many orders of
    magnitude apart, ranks do not. 0 leaves the reranker alone.
    """
    return [score / (score + (1 - score) * rank**exponent) for rank, score in enumerate(scores, start=1)]
