"""Judged questions of data sets in BEIR's layout (corpus, queries, qrels), and their split by document."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from setup_milvus.datasets import Columns, Dataset, Tally

BEIR_COLUMNS = Columns(text="text", title="title", topic="", date="", id="_id")
"""As the corpus must have been ingested: --text-column text --title-column title --topic-column '' --date-column ''
--id-column _id. Then document ids are the same here and in the store."""

Part = Literal["training", "validation"]


class NoQuestions(Exception):
    """A folder that holds nothing to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the ids of the documents (in the store) that answer it."""

    id: str
    text: str
    relevant: frozenset[str]


class Questions:
    """The judged questions of one set. A document is held out by its title, or where it has none by its key: all
    paragraphs of one article are on the same side, so that validation asks about nothing that was trained on.

    Held out is what the first `hold_out_first` questions are about, or without them `validation_share` of the titles,
    drawn by hash.
    """

    def __init__(self, folder: Path, validation_share: float, hold_out_first: int = 0) -> None:
        """Raises NoQuestions, and DatasetError for a corpus that cannot be read."""
        self.name = folder.name
        corpus = _only(folder, "corpus.jsonl*")
        titles: dict[str, str] = {}
        ids: dict[str, str] = {}
        for document in Dataset.open(corpus, BEIR_COLUMNS).documents(Tally()):
            ids[document.key] = document.id
            titles[document.id] = document.title or document.key
        answers: dict[str, set[str]] = defaultdict(set)
        with _only(folder, "qrels*.tsv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if int(row["score"]) > 0 and row["corpus-id"] in ids:
                    answers[row["query-id"]].add(ids[row["corpus-id"]])
        rows = _rows(_only(folder, "queries*.jsonl*"))
        self.all = [Question(row["_id"], row["text"], frozenset(answers[row["_id"]])) for row in rows]
        self.all = [question for question in self.all if question.relevant]
        if not self.all:
            raise NoQuestions(f"{folder} has no question that one of its documents answers")
        if hold_out_first:
            held = {titles[document] for question in self.all[:hold_out_first] for document in question.relevant}
        else:
            held = {title for title in titles.values() if self._drawn(title) < validation_share}
        self._sides: dict[str, Part] = {
            document: "validation" if title in held else "training" for document, title in titles.items()
        }

    def of(self, part: Part) -> list[Question]:
        """The questions all of whose documents are on that side. Those with documents on both are in neither."""
        return [q for q in self.all if all(self._sides[document] == part for document in q.relevant)]

    def side(self, document: str) -> Part | None:
        """Where a document is; None: it is not of this set."""
        return self._sides.get(document)

    def _drawn(self, title: str) -> float:
        """From 0 to 1, and always the same."""
        return int(hashlib.sha256(f"{self.name}\x1f{title}".encode()).hexdigest()[:8], 16) / 16**8


def licence_of(folder: Path) -> str:
    """What the set's PROVENANCE.md says of its licence."""
    notes = folder / "PROVENANCE.md"
    if notes.exists():
        for line in notes.read_text(encoding="utf-8").splitlines():
            if "licence" in line.lower() and ":" in line:
                return line.partition(":")[2].strip()
    return "not stated: find out before the model is given away"


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise NoQuestions(f"{folder} has {len(found)} files {pattern}, not one")
    return found[0]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
