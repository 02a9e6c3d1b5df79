"""Documents cut into passages: nothing lost, nothing too long."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from app_llm.simulated import WORD_TOKENIZER
from contracts.collection import TEXT_BYTES_MAX
from setup_milvus.chunking import SPECIAL_TOKENS, Chunk, chunks_of, split
from setup_milvus.datasets import Document

ROOT = Path(__file__).parents[2]
ENCODER = ROOT / "volumes/models/all-MiniLM-L6-v2/tokenizer.json"
WORDS = Tokenizer.from_str(WORD_TOKENIZER)
"""One token a word."""


@dataclass(frozen=True)
class Text:
    """A text of numbered words, so that a slice says where it comes from."""

    text: str
    offsets: list[tuple[int, int]]


@st.composite
def numbered_texts(draw: st.DrawFn) -> Text:
    """Words `w0`, `w1`, … with sentence ends and line breaks strewn in."""
    ends = draw(st.lists(st.sampled_from([" ", " ", " ", ". ", "? ", '." ', ".\n", "\n", "  ", ", "]), max_size=60))
    text = "".join(f"w{i}{end}" for i, end in enumerate(ends)).strip()
    return Text(text, [match.span() for match in re.finditer(r"w\d+|[.,?\"]", text)])


def token_ranges(source: Text, slices: list[str]) -> list[tuple[int, int]]:
    """For each slice, its first token and the one after its last, found by its place in the text. One of punctuation
    alone occurs often: it is the last such place that leaves no gap after the slice before."""
    ranges: list[tuple[int, int]] = []
    search_from = 0
    starts = {start: i for i, (start, _) in enumerate(source.offsets)}
    stops = {stop: i + 1 for i, (_, stop) in enumerate(source.offsets)}
    for piece in slices:
        begun = ranges[-1][1] if ranges else 0
        at = max(
            start
            for start, i in starts.items()
            if start >= search_from and i <= begun and source.text.startswith(piece, start) and piece
        )
        ranges.append((starts[at], stops[at + len(piece)]))
        search_from = at + 1
    return ranges


SIZES = st.integers(1, 25)
OVERLAPS = st.integers(0, 30)
"""Larger than the size too: that must end all the same."""


@settings(deadline=None)
@given(numbered_texts(), SIZES, OVERLAPS)
@example(Text("", []), 5, 2)
def test_slices_cover_the_text_in_order(source: Text, size: int, overlap: int) -> None:
    ranges = token_ranges(source, split(source.text, source.offsets, size, overlap))
    covered: set[int] = set()
    for start, end in ranges:
        covered |= set(range(start, end))
    assert covered == set(range(len(source.offsets)))
    assert [start for start, _ in ranges] == sorted({start for start, _ in ranges})
    assert [end for _, end in ranges] == sorted(end for _, end in ranges)


@settings(deadline=None)
@given(numbered_texts(), SIZES, OVERLAPS)
def test_no_slice_is_over_the_size(source: Text, size: int, overlap: int) -> None:
    for start, end in token_ranges(source, split(source.text, source.offsets, size, overlap)):
        assert 1 <= end - start <= size


@settings(deadline=None)
@given(numbered_texts(), SIZES, OVERLAPS)
def test_neighbours_share_the_overlap_or_as_much_as_leaves_progress(source: Text, size: int, overlap: int) -> None:
    ranges = token_ranges(source, split(source.text, source.offsets, size, overlap))
    for (start, end), (next_start, _) in pairwise(ranges):
        assert end - next_start == min(overlap, end - start - 1)


@settings(deadline=None)
@given(numbered_texts(), SIZES, OVERLAPS)
def test_there_are_never_more_slices_than_tokens(source: Text, size: int, overlap: int) -> None:
    slices = split(source.text, source.offsets, size, overlap)
    assert len(slices) <= len(source.offsets)
    assert bool(slices) == bool(source.offsets)


@settings(deadline=None)
@given(st.text(), st.data(), SIZES, OVERLAPS)
def test_any_text_with_any_tokens_is_covered_without_overrunning(
    text: str, data: st.DataObject, size: int, overlap: int
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    offsets = list(pairwise(cuts))
    slices = split(text, offsets, size, overlap)
    assert len(slices) <= len(offsets)
    if offsets:
        whole = text[offsets[0][0] : offsets[-1][1]]
        assert set("".join(whole.split())) == set("".join("".join(slices).split()))
        longest = max(offsets[min(i + size, len(offsets)) - 1][1] - offsets[i][0] for i in range(len(offsets)))
        assert max(map(len, slices)) <= longest


def slices_of_twelve(text: str) -> list[str]:
    return split(text, WORDS.encode(text).offsets, 12, 0)


@pytest.mark.parametrize("last", ["k.", "k!", "k?", "k\n"])
def test_a_passage_ends_with_a_sentence_that_ends_in_its_last_quarter(last: str) -> None:
    assert slices_of_twelve(f"a b c d e f g h i j {last} l m n") == [f"a b c d e f g h i j {last}".strip(), "l m n"]


@pytest.mark.parametrize("text", ["a b c d e f g h. i j k l m n", "a b c d e f g h i j 3.5 l m n"])
def test_a_passage_is_full_where_no_sentence_ends_in_its_last_quarter(text: str) -> None:
    assert slices_of_twelve(text) == [text.removesuffix(" m n"), "m n"]


def test_the_last_of_several_sentences_is_kept() -> None:
    assert slices_of_twelve("a b c. d e f g h. i j k. l m n") == ["a b c. d e f g h. i j k.", "l m n"]


def document(text: str, title: str = "") -> Document:
    return Document("0123", title, text, "sports", "2024-02-03")


DOCUMENTS = st.builds(
    document,
    st.lists(st.sampled_from(["rain", "fell.", "It", "é€", "3.5", "wind\n"]), min_size=1, max_size=200).map(" ".join),
    st.lists(st.sampled_from(["Rain", "in", "Karachi"]), max_size=20).map(" ".join),
)


@settings(deadline=None)
@given(DOCUMENTS, st.integers(32, 64), st.integers(0, 16))
def test_a_passage_with_its_heading_fits_into_its_tokens(article: Document, tokens: int, overlap: int) -> None:
    for chunk in chunks_of(article, WORDS, tokens, overlap):
        assert len(WORDS.encode(chunk.encoded).ids) + SPECIAL_TOKENS <= tokens


@settings(deadline=None)
@given(DOCUMENTS, st.integers(32, 64))
def test_passages_without_overlap_put_together_are_the_document(article: Document, tokens: int) -> None:
    chunks = chunks_of(article, WORDS, tokens, 0)
    assert " ".join(chunk.text for chunk in chunks).split() == article.text.split()
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


@settings(deadline=None)
@given(DOCUMENTS, st.integers(32, 64), st.integers(0, 16))
def test_ids_are_the_same_in_every_run_and_different_in_a_document(
    article: Document, tokens: int, overlap: int
) -> None:
    ids = [chunk.id for chunk in chunks_of(article, WORDS, tokens, overlap)]
    assert ids == [chunk.id for chunk in chunks_of(article, WORDS, tokens, overlap)]
    assert len(set(ids)) == len(ids)


def test_the_same_text_in_another_document_has_another_id() -> None:
    one = Document("0123", "", "Rain fell.", "sports", "")
    other = Document("4567", "", "Rain fell.", "sports", "")
    assert chunks_of(one, WORDS, 32, 0)[0].id != chunks_of(other, WORDS, 32, 0)[0].id


def test_the_heading_is_encoded_with_every_passage_and_stored_with_none() -> None:
    chunks = chunks_of(document("rain " * 100, "Weather today"), WORDS, 40, 8)
    assert len(chunks) > 2
    assert {chunk.encoded.split("\n")[0] for chunk in chunks} == {"Weather today"}
    assert not any("Weather" in chunk.text for chunk in chunks)


def test_a_passage_without_a_heading_is_encoded_as_it_is() -> None:
    article = document("Rain fell.")
    (chunk,) = chunks_of(article, WORDS, 32, 8)
    assert chunk == Chunk(chunk.id, article, 0, 1, "Rain fell.", "Rain fell.")


def test_a_long_heading_is_cut_for_encoding_only() -> None:
    article = document("Rain fell.", " ".join(f"h{i}" for i in range(50)))
    (chunk,) = chunks_of(article, WORDS, 32, 8)
    assert chunk.encoded == "h0 h1 h2 h3 h4 h5 h6 h7\nRain fell."
    assert chunk.document.title == article.title


def test_no_stored_text_is_longer_than_milvus_takes() -> None:
    """And nothing of a word that is longer is lost."""
    word = "é" * TEXT_BYTES_MAX + "!"
    chunks = chunks_of(document(word), WORDS, 32, 8)
    assert all(len(chunk.text.encode()) <= TEXT_BYTES_MAX for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == word
    assert [chunk.index for chunk in chunks] == [0, 1, 2]


@pytest.mark.parametrize(("tokens", "overlap"), [(200, 40), (64, 16), (32, 0)])
def test_the_sample_fits_when_counted_by_the_encoders_own_tokenizer(tokens: int, overlap: int) -> None:
    tokenizer = Tokenizer.from_file(str(ENCODER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with (ROOT / "setup_milvus/sample/articles.csv").open(encoding="utf-8-sig", newline="") as file:
        articles = [document(row["Article"], row["Heading"]) for row in csv.DictReader(file)]
    passages = [chunk for article in articles for chunk in chunks_of(article, tokenizer, tokens, overlap)]
    assert max(len(tokenizer.encode(chunk.encoded).ids) for chunk in passages) <= tokens
    if overlap == 0:
        assert "".join("".join(chunk.text for chunk in passages).split()) == "".join(
            "".join(article.text for article in articles).split()
        )
