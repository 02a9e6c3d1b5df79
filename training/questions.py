"""Judged questions of data sets in BEIR's layout (corpus, queries, qrels), and their split by title."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
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


@dataclass(frozen=True, slots=True)
class Judged:
    """One set: its questions that a document answers, in the order of the file, and what each document (by its id in
    the store) is about: its title, or where it has none the document itself."""

    name: str
    questions: tuple[Question, ...]
    subjects: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Judged:
        """Raises NoQuestions, and DatasetError for a corpus that cannot be read."""
        subjects: dict[str, str] = {}
        ids: dict[str, str] = {}
        for document in Dataset.open(_only(folder, "corpus.jsonl*"), BEIR_COLUMNS).documents(Tally()):
            ids[document.key] = document.id
            subjects[document.id] = _subject(document.title) or f"{folder.name}\x1f{document.key}"
        answers: dict[str, set[str]] = defaultdict(set)
        with _only(folder, "qrels*.tsv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if int(row["score"]) > 0 and row["corpus-id"] in ids:
                    answers[row["query-id"]].add(ids[row["corpus-id"]])
        rows = _rows(_only(folder, "queries*.jsonl*"))
        every = (Question(row["_id"], row["text"], frozenset(answers[row["_id"]])) for row in rows)
        questions = tuple(question for question in every if question.relevant)
        if not questions:
            raise NoQuestions(f"{folder} has no question that one of its documents answers")
        return cls(folder.name, questions, subjects)

    def to_hold_out(self, share: float, first: int) -> set[str]:
        """What the `first` questions are about, or where that is 0 `share` of the subjects, drawn by hash."""
        if first:
            return {self.subjects[document] for question in self.questions[:first] for document in question.relevant}
        return {subject for subject in self.subjects.values() if _drawn(subject) < share}


class Questions:
    """The judged questions of one set, of which the documents about the subjects `held` are held out."""

    def __init__(self, judged: Judged, held: Set[str]) -> None:
        self.name = judged.name
        self.all = judged.questions
        self._sides: dict[str, Part] = {
            document: "validation" if subject in held else "training" for document, subject in judged.subjects.items()
        }

    def of(self, part: Part) -> list[Question]:
        """The questions all of whose documents are on that side. Those with documents on both are in neither."""
        return [q for q in self.all if all(self._sides[document] == part for document in q.relevant)]

    def side(self, document: str) -> Part | None:
        """Where a document is; None: it is not of this set."""
        return self._sides.get(document)


def split(folders: Iterable[Path], validation_share: float, hold_out_first: int = 0) -> list[Questions]:
    """The sets in `folders`, split by title: all paragraphs of one article are on the same side, in every set that has
    it, so that validation asks about nothing that was trained on.

    Held out of all of them is what the first `hold_out_first` questions of any are about, or without them
    `validation_share` of the titles. Raises NoQuestions, and DatasetError for a corpus that cannot be read.
    """
    sets = [Judged.read(folder) for folder in folders]
    held = set().union(*(judged.to_hold_out(validation_share, hold_out_first) for judged in sets))
    return [Questions(judged, held) for judged in sets]


def licence_of(folder: Path) -> str:
    """What the set's PROVENANCE.md says of its licence."""
    notes = folder / "PROVENANCE.md"
    if notes.exists():
        for line in notes.read_text(encoding="utf-8").splitlines():
            if "licence" in line.lower() and ":" in line:
                return line.partition(":")[2].strip()
    return "not stated: find out before the model is given away"


def _subject(title: str) -> str:
    """The same for one article however a set writes its title: SQuAD's have spaces or underscores."""
    return " ".join(title.replace("_", " ").split()).casefold()


def _drawn(subject: str) -> float:
    """From 0 to 1, and always the same: in every set that has the subject, too."""
    return int(hashlib.sha256(subject.encode()).hexdigest()[:8], 16) / 16**8


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise NoQuestions(f"{folder} has {len(found)} files {pattern}, not one")
    return found[0]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
