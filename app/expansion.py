"""More ways to say a question: what the LLM is asked for, what of its words can be used, and what is searched for then.

Pure. Multi-query is several phrasings searched beside the question; HyDE is Gao et al., "Precise zero-shot dense
retrieval without relevance labels" (ACL 2023).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.types import ExpandMode, Message, Queries, Vectors

TEXT_CHARS_MAX = 2_000
"""Of one phrasing or passage."""
LONGER, LONGER_CHARS = 2, 100
"""A phrasing is at most so many times as long as its question, and so many characters more."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """What the LLM has added to a question: phrasings ("multi_query") or passages ("hyde"); none where it had nothing
    usable to say, or failed: `skipped` is why."""

    mode: ExpandMode
    texts: tuple[str, ...]
    skipped: str | None = None


_EXAMPLE = "Why did the ferry to Lindau stop running in 2019?"
_EXAMPLE_PHRASINGS = (
    "What was the reason that the Lindau ferry ended its service in 2019?",
    "Why has there been no boat to Lindau since 2019?",
    "What made the ferry company close the Lindau line?",
    "How come nobody can take a ship to Lindau any more?",
    "What led to the end of the boat trips to Lindau?",
    "For which reasons was the ferry line to Lindau given up?",
    "Why was 2019 the last year of the Lindau ferry?",
    "What explains that the ferry no longer goes to Lindau?",
)
"""As many as a question may have (PHAROS_EXPAND_PHRASINGS)."""


def phrasings_prompt(question: str, count: int) -> tuple[Message, ...]:
    """Asks for `count` other phrasings of `question`, by an example: without one a small model answers it instead. (The
    example is first, so that an engine with a prefix cache reads it once.)"""
    listed = "\n".join(f"{i}. {text}" for i, text in enumerate(_EXAMPLE_PHRASINGS[:count], start=1))
    return (
        Message(
            "system",
            "You rewrite questions for a search engine, in the language they are in. You never answer them.",
        ),
        Message("user", _rewrite(_EXAMPLE, count)),
        Message("assistant", listed),
        Message("user", _rewrite(question, count)),
    )


def _rewrite(question: str, count: int) -> str:
    return f"Question: {question}\n{count} other ways to ask it, one per line:"


def passage_prompt(question: str) -> tuple[Message, ...]:
    """Asks for a passage that `question` might be answered by."""
    return (
        Message(
            "system",
            "You write short passages of facts, as they stand in reference works and in the news, each in the language "
            "of the question that it answers.",
        ),
        Message("user", question),
    )


_ITEM = r"(?:[-*•‣–—]|(?:[Qq](?:uestion)?\s*)?[(\[]?\d{1,2}[.):\]、]|[Qq](?:uestion)?\s*:)"
_MARKS = re.compile(rf"^(?:{_ITEM}(?:\s+|(?<=[、)\]])|$))+")
_IN_LINE = re.compile(r"(?<=[?？.!])\s+(?=\(?\d{1,2}[.)]\s)")
"""Between the items of a list that was written into one line."""
_AROUND = " \t*_`\"“”„«»‘’'「」,;"
_GAP = re.compile(r"[\s\x00-\x1f\x7f]+")
"""No encoder or store needs to see control characters."""


def phrasings_of(said: str, question: str, count: int, *, unfinished: bool = False) -> tuple[str, ...]:
    """The first `count` usable lines of `said`, without the marks of a list: none that says only `question` or an
    earlier one again, no introduction ("Here are three:"), nothing without a word, nothing so long that it must be an
    answer, and nothing from the prompt's example. The last line of an `unfinished` text is none."""
    if unfinished:
        said = said.rpartition("\n")[0]
    longest = min(LONGER * len(question) + LONGER_CHARS, TEXT_CHARS_MAX)
    seen = {_key(text) for text in (question, *_EXAMPLE_PHRASINGS)}
    found: list[str] = []
    for line in said.splitlines():
        for item in _IN_LINE.split(line):
            text = _bare(item)
            key = _key(text)
            if not key or key in seen or text.endswith((":", "：")) or len(text) > longest:
                continue
            seen.add(key)
            found.append(text)
    return tuple(found[:count])


def passage_of(said: str) -> str:
    """`said` as one passage; "" where there is no word in it."""
    text = _GAP.sub(" ", said).strip()[:TEXT_CHARS_MAX].rstrip()
    return text if _key(text) else ""


def queries_of(question: str, expansion: Expansion | None, vectors: Vectors) -> Queries:
    """What to search for, first the question itself; row 0 of `vectors` is its, and the others are those of the
    expansion's texts.

    With passages it is one search, by the normalised mean of all vectors (as the paper has it) and the question's own
    words.
    """
    own = Queries((question,), vectors[:1])
    if expansion is None or not expansion.texts:
        return own
    if expansion.mode == "hyde":
        return Queries((question,), _mean(vectors), asked=own)
    texts = (question, *expansion.texts)
    return Queries(texts, vectors, asked=Queries((question,) * len(texts), np.repeat(vectors[:1], len(texts), axis=0)))


def together(parts: Sequence[Queries]) -> Queries:
    """All of them as one, in their order."""
    texts = tuple(text for part in parts for text in part.texts)
    vectors = np.concatenate([part.vectors for part in parts])
    if all(part.asked is None for part in parts):
        return Queries(texts, vectors)
    return Queries(texts, vectors, asked=together([part.asked or part for part in parts]))


def _mean(vectors: Vectors) -> Vectors:
    mean = vectors.mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(mean))
    # Of vectors that cancel each other out nothing is left; the first is the question's.
    return mean / np.float32(length) if length > 1e-6 else vectors[:1]


def _bare(line: str) -> str:
    text = _GAP.sub(" ", line).strip()
    while True:
        shorter = _MARKS.sub("", text.strip(_AROUND)).strip(_AROUND)
        if shorter == text:
            return text
        text = shorter


def _key(text: str) -> str:
    """Equal for texts that differ in case, spaces and punctuation only."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
