"""Chunks of one document put together again: neighbours that were found, and the chunks around what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from msgspec.structs import replace

from contracts.types import ChunkSpan, Hit, Passage

TOKEN_BYTES = 4
"""UTF-8 bytes taken for a token where no tokenizer is at hand: about what English, Russian, Korean and Chinese need.
The prompt's own budget is counted exactly (app/prompting.py)."""

OVERLAP_CHARS_MIN = 12
"""Where positions are not stored, a shorter match of one chunk's end with the next one's start is taken for chance."""

_SPAN_CHUNKS_MAX = 64


def spans_around(hits: Sequence[Hit], tokens: int) -> list[ChunkSpan]:
    """What to fetch so that each hit can grow to `tokens`: as many chunks on both sides of it as may be needed."""
    spans = []
    for hit in hits:
        passage = hit.passage
        if passage.chunk is None:
            continue
        chunks = min(tokens // max(tokens_of(passage.text), 1), _SPAN_CHUNKS_MAX)
        if chunks:
            first, last = _span(passage)
            spans.append(ChunkSpan(passage.topic, passage.document_id, max(first - chunks, 0), last + chunks))
    return spans


def grown(hits: Sequence[Hit], fetched: Iterable[Passage], tokens: int) -> list[Hit]:
    """`hits`, each with the chunks around it up to `tokens`, and neighbours joined: a small chunk is what is searched,
    and its document, or as much of it as fits, what is read ("small to big", the parent document retriever).

    A hit takes the following chunk, then the one before it, in turn. It is whole whatever `tokens` says.
    """
    around: dict[str, dict[int, Passage]] = defaultdict(dict)
    for passage in fetched:
        if passage.chunk is not None:
            around[passage.document_id][passage.chunk] = passage
    taken = {
        (passage.document_id, passage.chunk): passage
        for hit in hits
        for passage in _window(hit.passage, around[hit.passage.document_id], tokens)
    }
    return joined(hits, taken.values())


def joined(hits: Sequence[Hit], extra: Iterable[Passage] = ()) -> list[Hit]:
    """`hits` with neighbouring chunks of a document as one passage, each in the place of its best hit.

    `extra` are chunks that were not found themselves and fill in beside those that were. Text that neighbours share is
    there once. A joined passage has the id, scores and `chunk` of its best hit. Hits of unknown position stay as they
    are.
    """
    found: dict[str, list[tuple[int, Passage]]] = defaultdict(list)
    out: list[tuple[int, Hit]] = []
    for place, hit in enumerate(hits):
        if hit.passage.chunk is None:
            out.append((place, hit))
        else:
            found[hit.passage.document_id].append((place, hit.passage))
    filling: dict[str, list[tuple[int, Passage]]] = defaultdict(list)
    for passage in extra:
        if passage.chunk is not None:
            filling[passage.document_id].append((len(hits), passage))
    for document, placed in found.items():
        for run in _runs(chain(placed, filling.get(document, ()))):
            place = min(place for place, _ in run)
            if place < len(hits):
                out.append((place, _as_one(hits[place], [passage for _, passage in run])))
    return [hit for _, hit in sorted(out, key=lambda pair: pair[0])]


def tokens_of(text: str) -> int:
    """About how many tokens `text` is."""
    return len(text.encode()) // TOKEN_BYTES


def _window(passage: Passage, around: dict[int, Passage], tokens: int) -> list[Passage]:
    if passage.chunk is None:
        return []
    before, after = _span(passage)
    left = tokens - tokens_of(passage.text)
    window: list[Passage] = []
    open_ends = True
    while open_ends:
        open_ends = False
        for step in (1, -1):
            following = around.get(after + 1 if step > 0 else before - 1)
            if following is None or tokens_of(following.text) > left:
                continue
            left -= tokens_of(following.text)
            window.append(following)
            before, after = (before, after + 1) if step > 0 else (before - 1, after)
            open_ends = True
    return window


def _runs(placed: Iterable[tuple[int, Passage]]) -> list[list[tuple[int, Passage]]]:
    """Passages of one document in its order, cut where one does not follow the one before."""
    runs: list[list[tuple[int, Passage]]] = []
    end = -2
    for place, passage in sorted(placed, key=lambda pair: (*_span(pair[1]), pair[0])):
        first, last = _span(passage)
        if runs and first <= end + 1:
            runs[-1].append((place, passage))
        else:
            runs.append([(place, passage)])
            end = last
        end = max(end, last)
    return runs


def _as_one(best: Hit, passages: Sequence[Passage]) -> Hit:
    first, last = _span(passages[0])
    text, start = passages[0].text, passages[0].start
    for passage in passages[1:]:
        end = _span(passage)[1]
        if end > last:
            text = _continued(text, start, passage)
            last = end
    if (first, last) == _span(best.passage):
        return best
    return replace(best, passage=replace(best.passage, text=text, start=start, chunks=(first, last)))


def _continued(text: str, start: int | None, following: Passage) -> str:
    """`text`, which begins at `start` of its document, and what `following` adds to it."""
    if start is None or following.start is None:
        overlap = overlap_of(text, following.text)
        return text + (following.text[overlap:] if overlap else f"\n{following.text}")
    end = start + len(text)
    # Chunks that do not overlap have lost the white space between them.
    gap = "\n" if following.start > end else ""
    return text + gap + following.text[max(end - following.start, 0) :]


def overlap_of(text: str, following: str) -> int:
    """Characters at the end of `text` that are the beginning of `following` too, the most that can be; 0 for fewer than
    OVERLAP_CHARS_MIN. (In a text that repeats itself, like a row of zeros, that may be more than was shared: exact is
    only what has positions.)"""
    head = following[:OVERLAP_CHARS_MIN]
    at = text.find(head, max(len(text) - len(following), 0)) if len(head) == OVERLAP_CHARS_MIN else -1
    while at >= 0:
        if following.startswith(text[at:]):
            return len(text) - at
        at = text.find(head, at + 1)
    return 0


def _span(passage: Passage) -> tuple[int, int]:
    return passage.chunks or (passage.chunk or 0, passage.chunk or 0)
