"""How often is the right document found? Against running services (`make run`), through the gateway's own retrieval.

    python -m benchmarks.retrieval                      # the sample corpus and its 40 questions
    python -m benchmarks.retrieval --beir FOLDER        # corpus.jsonl.gz, queries.*.jsonl.gz and qrels.*.tsv
    python -m benchmarks.retrieval --foreign FOLDER     # another data set's questions to the sample corpus

The last one shows what PHAROS_MIN_SCORE does: how many questions that the documents do not answer still find something.

Top-k accuracy counts a question as answered when the document that answers it is among the first k documents found
(passages of one document count once). MRR@10 is the mean of 1/rank (Voorhees, TREC-8, 1999).
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app import retrieval
from app.batching import BatchLimits
from app.main import merging_encoder, network_adapters
from app.settings import Settings as AppSettings
from setup_milvus.datasets import Columns, Dataset, Tally
from setup_milvus.ingest import Ingestion
from setup_milvus.settings import Settings as SetupSettings

SAMPLE = Path("setup_milvus/sample")
BEIR_COLUMNS = Columns(text="text", title="title", topic="", date="", id="_id")
DEPTH = 10
CONCURRENT = 64


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the ids of the documents that answer it."""

    text: str
    answered_by: frozenset[str]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of questions, 0 to 1, and the ones whose document was not among the first three. `relevant` is the share
    whose best passage reaches PHAROS_MIN_SCORE, so that the LLM is asked at all."""

    questions: int
    top_1: float
    top_3: float
    mrr_10: float
    relevant: float
    missed: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.questions} questions: top-1 {self.top_1:.3f}, top-3 {self.top_3:.3f}, "
            f"MRR@{DEPTH} {self.mrr_10:.3f}, found something relevant {self.relevant:.3f}"
        )


def sample_questions() -> list[Question]:
    """The sample corpus' questions."""
    lines = (SAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(row["question"], frozenset([row["article_id"]])) for row in map(json.loads, lines)]


def beir_questions(folder: Path, dataset: Dataset) -> list[Question]:
    """The judged questions of a data set in BEIR's layout."""
    ids = {document.key: document.id for document in dataset.documents(Tally())}
    answers: dict[str, set[str]] = defaultdict(set)
    with next(folder.glob("qrels.*.tsv")).open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if int(row["score"]) > 0 and row["corpus-id"] in ids:
                answers[row["query-id"]].add(ids[row["corpus-id"]])
    rows = _queries(folder)
    return [Question(row["text"], frozenset(answers[row["_id"]])) for row in rows if row["_id"] in answers]


def foreign_questions(folder: Path) -> list[Question]:
    """The questions of another data set, which the documents at hand do not answer."""
    return [Question(row["text"], frozenset()) for row in _queries(folder)]


def _queries(folder: Path) -> list[dict[str, str]]:
    with gzip.open(next(folder.glob("queries.*.jsonl.gz")), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


async def evaluate(questions: Sequence[Question], settings: AppSettings) -> Accuracy:
    """Ask for each question's passages and look where its document is."""
    adapters = network_adapters(settings)
    encoder = merging_encoder(settings, adapters.replicas)
    retriever = retrieval.Retriever(
        encoder,
        adapters.store,
        search_limits=BatchLimits(settings.search_batch_items, settings.queue_items, settings.search_in_flight),
        min_score=-1,
    )
    slots = asyncio.Semaphore(CONCURRENT)

    async def rank(question: Question) -> tuple[int | None, float]:
        """The rank of the question's document, and the best passage's score."""
        async with slots:
            # Three times the depth, since several passages may be of one document.
            found = await retriever.retrieve(retrieval.Question(question.text, (), 3 * DEPTH))
        documents = list(dict.fromkeys(passage.document_id for passage in found.passages))[:DEPTH]
        hit = next((i for i, document in enumerate(documents, start=1) if document in question.answered_by), None)
        return hit, found.best_score or 0.0

    try:
        async with adapters.replicas, encoder.batcher, retriever:
            outcomes = await asyncio.gather(*map(rank, questions))
    finally:
        await adapters.close()
    ranks = [hit for hit, _ in outcomes]
    count = len(questions)
    return Accuracy(
        questions=count,
        top_1=sum(r == 1 for r in ranks) / count,
        top_3=sum(r is not None and r <= 3 for r in ranks) / count,
        mrr_10=sum(1 / r for r in ranks if r) / count,
        relevant=sum(score >= settings.min_score for _, score in outcomes) / count,
        missed=tuple(q.text for q, r in zip(questions, ranks, strict=True) if r is None or r > 3),
    )


async def run(beir: Path | None, foreign: Path | None) -> Accuracy:
    """Load the corpus into a collection of its own and evaluate it; `foreign` only lends its questions."""
    if beir is None:
        name, dataset = "bench_sample", Dataset.open(SAMPLE / "articles.csv", Columns())
        questions = sample_questions() if foreign is None else foreign_questions(foreign)
    else:
        name = f"bench_{beir.name}"
        dataset = Dataset.open(beir / "corpus.jsonl.gz", BEIR_COLUMNS)
        questions = beir_questions(beir, dataset)
    outcome = await Ingestion(SetupSettings(collection=name)).run(dataset)
    if not outcome.complete:
        sys.exit("the corpus was not stored completely")
    return await evaluate(questions, AppSettings(collection=name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Top-1 and top-3 accuracy of retrieval.")
    parser.add_argument("--beir", type=Path, metavar="FOLDER", default=None)
    parser.add_argument("--foreign", type=Path, metavar="FOLDER", default=None)
    options = parser.parse_args()
    accuracy = asyncio.run(run(options.beir, options.foreign))
    print(accuracy)
    for question in accuracy.missed[:10]:
        print(f"  not in the first three: {question}")
