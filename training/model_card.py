"""The README of a trained model: what it was made of, under which licences, and how good it was."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from training.loop import Trained
from training.validation import Order


def readme(options: argparse.Namespace, trained: Trained, orders: Sequence[Order], licences: Mapping[str, str]) -> str:
    """In Markdown. Names the sets and no folder of the machine it was trained on."""
    base = str(options.model).rstrip("/").rpartition("/")[2]
    sets = "\n".join(f"- {name}: {licence}" for name, licence in licences.items())
    rows = "\n".join(f"| {o.set} | {o.questions} | {o.searched:.3f} | {o.reranked:.3f} |" for o in orders)
    worse = [order.set for order in orders if order.reranked <= order.searched]
    warning = (
        f"\n**It makes the order of {', '.join(worse)} no better: train it longer before it is used.**\n"
        if worse
        else ""
    )
    return f"""# {options.name}
{warning}
A cross-encoder for PHAROS_LLM_RERANKER_MODEL, made by `python -m training.cross_encoder` from {base}.

{trained.questions} questions, {trained.steps} steps, {trained.pairs} pairs of at most {options.max_length} tokens,
{trained.seconds:.0f} s; negatives from a {options.mode} search; learning rate {options.learning_rate:g},
{options.negatives} negatives a question, {options.batch} questions a step, seed {options.seed}; mean loss of the last
tenth of the steps {trained.loss:.3f}.

Trained on the questions and passages of:

{sets}

Whoever gives this model away must heed these licences, and that of {base}.

nDCG@10 on held-out questions (`validation.tsv`), whose documents, and those of the same title, training never saw; the
first {options.validation_candidates} candidates reranked, with PHAROS_RERANK_PRIOR={options.prior:g}:

| set | questions | as searched | reranked |
| --- | --- | --- | --- |
{rows}
"""
