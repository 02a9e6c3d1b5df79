"""The backends of the encoder and the reranker, each in a process of its own, in turns: passages, single questions, and
50 pairs of a question and a passage.

The cross-encoder has the encoder's layers and a head of random weights: its scores mean nothing, its speed is that of
a trained one. What a backend changes in the ranking is measured by `evaluation` (docs/encoders.md).
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from app_llm.graphs.types import Backend
from benchmarks.backend_process import BackendProcess, Computed, backend_process
from benchmarks.encoding import sentences_of
from benchmarks.options import Options
from benchmarks.results import Measured, Plot, Row, Series
from benchmarks.services import ENCODER
from contracts.types import Pair

BACKENDS: tuple[Backend, ...] = get_args(Backend)
CROSS_ENCODER = Path("volumes/bench/models/minilm-cross-encoder")
PASSAGE_WORDS = 150
"""About 200 tokens, as long as the passages of an ingestion."""
PAIRS = 50
COSINE_MIN = 0.95
"""Below it a backend does not compute the model, whatever its speed."""


@dataclass(slots=True)
class Figures:
    """What one backend did, a value for each round."""

    passages: list[Computed] = field(default_factory=list)
    question_seconds: list[float] = field(default_factory=list)
    question_cpu_seconds: float = 0.0
    pairs: list[Computed] = field(default_factory=list)


def run(options: Options) -> Measured:
    rounds, most, asked = (2, 16, 8) if options.quick else (5, 64, 24)
    sentences = sentences_of(options.dataset, 40 * most)
    questions = sentences[:: max(1, len(sentences) // asked)][:asked]
    passages = _passages(sentences, most)
    pairs = [Pair(questions[0], passage) for passage in (passages * (PAIRS // len(passages) + 1))[:PAIRS]]
    _cross_encoder()
    figures = {backend: Figures() for backend in BACKENDS}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(backend_process(name, Path(ENCODER), CROSS_ENCODER)) for name in BACKENDS
        }
        for _ in range(rounds):
            for name, process in processes.items():
                _measure(process, figures[name], passages, questions, pairs)
    setup = (
        f"{len(passages)} passages of {PASSAGE_WORDS} words a call, {len(questions)} questions one by one, {PAIRS} "
        f"pairs a call; {rounds} rounds in turns, the median of them."
    )
    return compared(figures, setup)


def compared(figures: dict[Backend, Figures], setup: str) -> Measured:
    """Every backend's figures beside torch's."""
    cosines = ", ".join(f"{name} {_cosine(figures, name):.4f}" for name in BACKENDS[1:])
    note = f"{setup} Lowest cosine with torch's vectors: {cosines}."
    rows: list[Row] = []
    bars: dict[str, dict[str, float]] = {"passages": {}, "single questions": {}, f"{PAIRS} pairs": {}}
    for name in BACKENDS[1:]:
        found, torch = figures[name], figures["torch"]
        doubts = [] if _cosine(figures, name) >= COSINE_MIN else [f"cosine with torch {_cosine(figures, name):.3f}"]
        for what, unit, better, ours, theirs, cpu in (
            (
                "passages",
                "passages/s",
                "higher",
                _rate(found),
                _rate(torch),
                sum(c.cpu_seconds for c in found.passages),
            ),
            ("a question", "ms", "lower", _ms(found), _ms(torch), found.question_cpu_seconds),
            (f"{PAIRS} pairs", "s", "lower", _pairs(found), _pairs(torch), sum(c.cpu_seconds for c in found.pairs)),
        ):
            rows.append(
                Row(
                    f"{name}: {what}",
                    unit,
                    ours,
                    "higher" if better == "higher" else "lower",
                    "torch",
                    theirs,
                    cpu_seconds={name: round(cpu, 2)},
                    doubts=doubts,
                    note=note,
                )
            )
    for name, found in figures.items():
        bars["passages"][name] = _rate(found) / _rate(figures["torch"])
        bars["single questions"][name] = _ms(figures["torch"]) / _ms(found)
        bars[f"{PAIRS} pairs"][name] = _pairs(figures["torch"]) / _pairs(found)
    series = [Series(name, values) for name, values in bars.items()]
    return Measured(rows, [Plot("backends", "Backends of encoder and reranker", "times as fast as torch", series)])


def _passages(sentences: list[str], most: int) -> list[str]:
    words = " ".join(sentences).split()
    found = [" ".join(words[start : start + PASSAGE_WORDS]) for start in range(0, len(words), PASSAGE_WORDS)]
    return found[:most]


def _cross_encoder() -> None:
    if CROSS_ENCODER.is_dir():
        return
    import torch
    from sentence_transformers import CrossEncoder

    torch.manual_seed(1)
    CROSS_ENCODER.parent.mkdir(parents=True, exist_ok=True)
    CrossEncoder(ENCODER, num_labels=1, device="cpu").save_pretrained(str(CROSS_ENCODER), create_model_card=False)


def _measure(
    process: BackendProcess, figures: Figures, passages: list[str], questions: list[str], pairs: list[Pair]
) -> None:
    figures.passages.append(process.encode(passages))
    for question in questions:
        alone = process.encode([question])
        figures.question_seconds.append(alone.seconds)
        figures.question_cpu_seconds += alone.cpu_seconds
    figures.pairs.append(process.rerank(pairs))


def _rate(figures: Figures) -> float:
    return len(figures.passages[0].values) / statistics.median(one.seconds for one in figures.passages)


def _ms(figures: Figures) -> float:
    return 1000 * statistics.median(figures.question_seconds)


def _pairs(figures: Figures) -> float:
    return statistics.median(one.seconds for one in figures.pairs)


def _cosine(figures: dict[Backend, Figures], name: Backend) -> float:
    """The lowest of a passage's vector with that of torch."""
    ours, theirs = (np.array(figures[one].passages[0].values) for one in (name, "torch"))
    return float((ours * theirs).sum(axis=1).min())
