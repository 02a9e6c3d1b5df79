"""What the search finds for each question: the passages a reranker will see, and so the negatives worth learning from.

Kept in a file, so that the training itself needs no services and can be done elsewhere (on a GPU). The file says with
which options it was made: what it holds out must be what the run that reads it promises to hold out.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from training.questions import Part, Question, Questions
from training.searching import search

AT_ONCE = 16
"""Searches that wait at the same time."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage as the gateway hands it to the reranker: heading and text."""

    document: str
    text: str


@dataclass(frozen=True, slots=True)
class Mined:
    """A question and what the search found for it, best first. `held_out` are the documents among them that training
    must not see."""

    set: str
    part: Part
    question: Question
    candidates: tuple[Candidate, ...]
    held_out: frozenset[str]


Search = Callable[[str], Awaitable[Sequence[Candidate]]]

Options = Mapping[str, object]
"""What decides what is mined: names of options as they are written, to their values, which JSON keeps."""


class NothingFound(Exception):
    """The searches find none of the set's documents: another collection is being searched."""


class NotAsMined(Exception):
    """A file that was mined with other options, or cannot be read; the message says which, and what to do."""


def gateway_search(http: httpx.AsyncClient, url: str, top_k: int, mode: str) -> Search:
    """POST /search of the gateway at `url`, without its reranker. It raises httpx.HTTPError."""

    async def found(question: str) -> Sequence[Candidate]:
        body = {"question": question, "mode": mode, "top_k": top_k, "rerank": False, "stages": False}
        answer = await search(http, f"{url}/search", body)
        passages = [hit["passage"] for hit in answer["hits"]]
        return [Candidate(p["document_id"], heading_and_text(p["title"], p["text"])) for p in passages]

    return found


def heading_and_text(title: str, text: str) -> str:
    """As a passage is encoded when it is stored (setup_milvus/chunking.py)."""
    return f"{title}\n{text}".strip()


async def mine(questions: Questions, chosen: Iterable[tuple[Part, Question]], search: Search) -> list[Mined]:
    """Search for every chosen question of the set. Raises NothingFound, and what `search` raises."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(part: Part, question: Question) -> Mined:
        async with slots:
            found = tuple(await search(question.text))
        held_out = frozenset(each.document for each in found if questions.side(each.document) != "training")
        return Mined(questions.name, part, question, found, held_out)

    mined = await asyncio.gather(*(one(part, question) for part, question in chosen))
    if not any(each.document in m.question.relevant for m in mined for each in m.candidates):
        raise NothingFound(f"no search finds a document of {questions.name}: is it this set that the gateway serves?")
    return mined


def save(mined: Sequence[Mined], options: Options, path: Path) -> None:
    """As gzipped JSON lines: the options, each passage once, then the questions."""
    numbers: dict[Candidate, int] = {}
    for each in mined:
        for candidate in each.candidates:
            numbers.setdefault(candidate, len(numbers))
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps({"options": dict(options)}) + "\n")
        for candidate in numbers:
            file.write(json.dumps({"document": candidate.document, "text": candidate.text}) + "\n")
        for each in mined:
            row = {
                "set": each.set,
                "part": each.part,
                "id": each.question.id,
                "question": each.question.text,
                "relevant": sorted(each.question.relevant),
                "candidates": [numbers[candidate] for candidate in each.candidates],
                "held_out": sorted(each.held_out),
            }
            file.write(json.dumps(row) + "\n")


def load(path: Path, options: Options) -> list[Mined]:
    """The inverse of `save`. Raises NotAsMined where it was saved with other options, and OSError."""
    candidates: list[Candidate] = []
    mined: list[Mined] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows: Iterator[dict[str, Any]] = map(json.loads, file)
            _check(next(rows, {}).get("options"), options, path)
            for row in rows:
                if "question" in row:
                    mined.append(_mined(row, candidates))
                else:
                    candidates.append(Candidate(row["document"], row["text"]))
    except (EOFError, KeyError, ValueError, gzip.BadGzipFile, zlib.error) as exc:
        raise NotAsMined(f"{path} cannot be read ({exc or type(exc).__name__}): delete it to mine again") from exc
    return mined


def _check(kept: Options | None, options: Options, path: Path) -> None:
    if kept is None:
        raise NotAsMined(f"{path} does not say with which options it was mined: delete it to mine again")
    differing = [
        f"{name} {_said(kept.get(name))}, not {_said(value)}"
        for name, value in options.items()
        if kept.get(name) != value
    ]
    if differing:
        raise NotAsMined(
            f"{path} was mined with {'; '.join(differing)}: give the same options, or delete it to mine again"
        )


def _said(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _mined(row: dict[str, Any], candidates: Sequence[Candidate]) -> Mined:
    question = Question(row["id"], row["question"], frozenset(row["relevant"]))
    found = tuple(candidates[i] for i in row["candidates"])
    return Mined(row["set"], row["part"], question, found, frozenset(row["held_out"]))
