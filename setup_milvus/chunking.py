"""Documents to passages, measured in the encoder's own tokens. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from contracts.collection import TEXT_BYTES_MAX
from setup_milvus.cleaning import cut_bytes
from setup_milvus.datasets import Document

SPECIAL_TOKENS = 2
"""What encoders of BERT's family put around a text."""

HEADING_SHARE = 4
"""A heading may take at most one token in this many of a passage; a longer one is cut for encoding only."""

_SENTENCE_END = re.compile(r"[.!?]['\"”’)]?$")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One passage, the `index`th of its document's `of`: `text` is stored and shown, `encoded` (heading and text) is
    what the vector is made of. `text` begins at character `start` of the document's."""

    id: str
    document: Document
    index: int
    of: int
    text: str
    encoded: str
    start: int = 0


def chunks_of(document: Document, tokenizer: Tokenizer, chunk_tokens: int, overlap_tokens: int) -> list[Chunk]:
    """`document` in passages of `chunk_tokens` tokens at most, heading and special tokens included. (A passage that
    starts inside a word may come out some tokens longer, since the rest of a word is cut into other tokens.)

    Neighbours share about `overlap_tokens`. A passage ends with a sentence where one ends in its last quarter. Together
    they cover the whole text.
    """
    heading = _cut_tokens(document.title, tokenizer, chunk_tokens // HEADING_SHARE)
    used = SPECIAL_TOKENS + (len(_offsets(heading, tokenizer)) + 1 if heading else 0)
    # A text of which the tokenizer makes nothing is still a passage: its heading can be found.
    offsets = _offsets(document.text, tokenizer)
    slices = placed_slices(document.text, offsets, chunk_tokens - used, overlap_tokens) or [(0, "")]
    # One token can be a word of any length, and Milvus bounds a field.
    pieces = [piece for start, text in slices for piece in _pieces(start, text)]
    chunks = []
    for index, (start, text) in enumerate(pieces):
        encoded = f"{heading}\n{text}".strip()
        chunks.append(Chunk(_chunk_id(document.id, index, text), document, index, len(pieces), text, encoded, start))
    return chunks


def split(text: str, offsets: Sequence[tuple[int, int]], size: int, overlap: int) -> list[str]:
    """Slices of `text` of at most `size` tokens each; `offsets` are the tokens' character spans."""
    return [piece for _, piece in placed_slices(text, offsets, size, overlap)]


def placed_slices(text: str, offsets: Sequence[tuple[int, int]], size: int, overlap: int) -> list[tuple[int, str]]:
    """As `split`, each slice with the character of `text` that it begins at."""
    slices: list[tuple[int, str]] = []
    start = 0
    while start < len(offsets):
        end = min(start + size, len(offsets))
        if end < len(offsets):
            end = _sentence_end(text, offsets, start, end)
        piece = text[offsets[start][0] : offsets[end - 1][1]]
        slices.append((offsets[start][0] + len(piece) - len(piece.lstrip()), piece.strip()))
        if end == len(offsets):
            break
        start = max(end - overlap, start + 1)
    return slices


def _pieces(start: int, text: str) -> Iterator[tuple[int, str]]:
    piece = cut_bytes(text, TEXT_BYTES_MAX)
    yield start, piece
    while text := text[len(piece) :]:
        start += len(piece)
        piece = cut_bytes(text, TEXT_BYTES_MAX)
        yield start, piece


def _sentence_end(text: str, offsets: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """The last token in the last quarter of [start, end) that ends a sentence, plus one; `end` where none does."""
    for stop in range(end, end - (end - start) // 4, -1):
        last, following = offsets[stop - 1][1], offsets[stop][0]
        gap = text[last:following]
        if "\n" in gap or (gap and _SENTENCE_END.search(text[max(0, last - 2) : last])):
            return stop
    return end


def _cut_tokens(text: str, tokenizer: Tokenizer, tokens: int) -> str:
    offsets = _offsets(text, tokenizer)
    return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]


def _offsets(text: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    return list(tokenizer.encode(text, add_special_tokens=False).offsets)


def _chunk_id(document_id: str, index: int, text: str) -> str:
    return hashlib.sha256(f"{document_id}\x1f{index}\x1f{text}".encode()).hexdigest()[:40]
