"""Sets of questions with judgements: BEIR's layout (Thakur et al., NeurIPS 2021, datasets track), and the sample.

A set is a folder with `corpus.jsonl.gz` (`_id`, `title`, `text`, and `date` where there is one),
`queries.SPLIT.jsonl.gz` (`_id`, `text`, `metadata`) and `qrels.SPLIT.tsv` (`query-id`, `corpus-id`, `score`, with a
header). A folder that holds the same set in several languages has `corpus.LANG.jsonl.gz` and
`queries.LANG.SPLIT.jsonl.gz`: `NAME-ru` is its Russian part, and `NAME-de-en` asks German questions of the English
documents.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from contracts.analysis import Language
from setup_milvus.datasets import Columns, Dataset, Tally
from setup_milvus.readers import DatasetError

SAMPLE = "sample"
SAMPLE_FOLDER = Path("setup_milvus/sample")
BEIR_COLUMNS = Columns(text="text", title="title", topic="", date="date", id="_id")
Turns = Literal["last", "all"]
_LANGUAGES = {"en": Language.ENGLISH, "ru": Language.RUSSIAN, "ko": Language.KOREAN, "zh": Language.CHINESE}
Judgements = Mapping[str, Mapping[str, int]]
"""Question id → document id → how relevant it is; 0 and below is not."""


class SetError(Exception):
    """The set cannot be read as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """`answers` are the gold answers, any of which is right; `answerable` is None where the set does not say."""

    id: str
    text: str
    answers: tuple[str, ...] = ()
    answerable: bool | None = None


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """`questions` in the file's order, of which those in `judgements` can be scored by rank."""

    name: str
    corpus: Path
    columns: Columns
    questions: tuple[Question, ...]
    judgements: Judgements = field(repr=False)
    language: Language | None = None
    """Of the documents, where the set says so."""

    def judged(self, limit: int | None = None) -> tuple[Question, ...]:
        """The first `limit` questions that have a relevant document."""
        return tuple(islice((question for question in self.questions if question.id in self.judgements), limit))

    def dataset(self) -> Dataset:
        """The documents as ingestion reads them. Raises SetError."""
        try:
            return Dataset.open(self.corpus, self.columns)
        except DatasetError as exc:
            raise SetError(str(exc)) from exc

    def fingerprint(self) -> str:
        """The first 32 bits of the corpus' SHA-256, in hexadecimal: another corpus is another collection."""
        with self.corpus.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:8]

    def keys(self) -> dict[str, str]:
        """The id that ingestion gives a document → the id that the judgements call it by."""
        own = self.columns.id is None
        return {document.id: document.id if own else document.key for document in self.dataset().documents(Tally())}


def evenly(questions: Sequence[Question], limit: int | None) -> tuple[Question, ...]:
    """`limit` of them from the whole file, since neighbours are often of one document; None: all."""
    if limit is None or limit >= len(questions):
        return tuple(questions)
    return tuple(questions[number * len(questions) // limit] for number in range(limit))


def open_set(data: Path | None, name: str, *, split: str = "dev", turns: Turns = "last") -> EvaluationSet:
    """The set `name` in the folder `data`; "sample" is the packaged one and needs no folder.

    `turns` says what is asked where a question is the end of a conversation: its last turn alone, or all the turns of
    the user. Raises SetError.
    """
    if name == SAMPLE and (data is None or not (data / name).is_dir()):
        return _sample()
    if data is None:
        raise SetError(f"--data FOLDER says where the set {name!r} is")
    folder, corpus_part, queries_part = _parts(data, name)
    corpus = folder / f"corpus{corpus_part}.jsonl.gz"
    queries = folder / f"queries{queries_part}.{split}.jsonl.gz"
    judgements = folder / f"qrels.{split}.tsv"
    for file in (corpus, queries, judgements):
        if not file.is_file():
            raise SetError(f"{file}: no such file")
    questions = tuple(_question(row, turns) for row in rows_of(queries))
    language = _LANGUAGES.get(corpus_part[1:], Language.NONE) if corpus_part else None
    return EvaluationSet(name, corpus, BEIR_COLUMNS, questions, _judgements(judgements), language)


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a gzipped file of JSON lines."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _parts(data: Path, name: str) -> tuple[Path, str, str]:
    """The folder, and what stands between "corpus" or "queries" and the rest of the files' names."""
    if (data / name).is_dir():
        return data / name, "", ""
    folder, _, language = name.rpartition("-")
    if folder and (data / folder).is_dir():
        return data / folder, f".{language}", f".{language}"
    folder, _, asked = folder.rpartition("-")
    if folder and (data / folder).is_dir():
        return data / folder, f".{language}", f".{asked}"
    raise SetError(f"{data / name}: no such folder")


def _question(row: dict[str, Any], turns: Turns) -> Question:
    metadata = row.get("metadata") or {}
    impossible = metadata.get("is_impossible")
    answerability = metadata.get("answerability")
    answerable = None
    if impossible is not None:
        answerable = not impossible
    elif answerability in ("ANSWERABLE", "UNANSWERABLE"):  # the rest (partial, underspecified) is neither
        answerable = answerability == "ANSWERABLE"
    elif metadata.get("answers"):
        answerable = True
    text = row["text"]
    if turns == "all" and "messages" in row:
        text = "\n".join(message["content"] for message in row["messages"] if message["role"] == "user")
    answers = metadata.get("answers") or metadata.get("reference_answers") or ()
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, Iterable) or not all(isinstance(answer, str) for answer in answers):
        raise SetError(f"question {row['_id']}: its gold answers are {answers!r}; give a list of strings")
    return Question(row["_id"], text, tuple(dict.fromkeys(answers)), answerable)


def _judgements(file: Path) -> Judgements:
    judgements: dict[str, dict[str, int]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            judgements.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return {id: documents for id, documents in judgements.items() if any(score > 0 for score in documents.values())}


def _sample() -> EvaluationSet:
    lines = (SAMPLE_FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {str(number): json.loads(line) for number, line in enumerate(lines, start=1)}
    questions = tuple(Question(id, row["question"], (row["answer"],), True) for id, row in rows.items())
    judgements = {id: {row["article_id"]: 1} for id, row in rows.items()}
    return EvaluationSet(SAMPLE, SAMPLE_FOLDER / "articles.csv", Columns(), questions, judgements)
