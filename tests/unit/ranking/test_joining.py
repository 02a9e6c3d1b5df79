"""Chunks put together are the document they were cut from."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from app.ranking.joining import grown, joined, overlap_of, spans_around, tokens_of
from contracts.types import ChunkSpan, Hit, Passage
from setup_milvus.chunking import chunks_of
from setup_milvus.cleaning import clean_text
from setup_milvus.datasets import Document
from tests.unit.ranking.made import hit, hits_of, ids

WORDS = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
WORDS.pre_tokenizer = pre_tokenizers.Whitespace()

REPEATING = st.lists(st.sampled_from(["0", "0 ", "ha. ", "Rain", " fell", "\n", "é, "]), min_size=1, max_size=200)
DOCUMENTS = REPEATING.map("".join).map(lambda raw: clean_text(raw)[0]).filter(bool)


def passages_of(text: str, tokens: int, overlap: int, *, placed: bool = True) -> list[Passage]:
    document = Document("d", "", text, "sports", "")
    return [
        Passage(c.id, "d", "", "sports", "", c.text, 0.5, chunk=c.index, start=c.start if placed else None)
        for c in chunks_of(document, WORDS, tokens, overlap)
    ]


@settings(deadline=None)
@given(text=DOCUMENTS, tokens=st.integers(4, 20), overlap=st.integers(0, 6), order=st.randoms())
def test_all_chunks_joined_are_the_text(text: str, tokens: int, overlap: int, order: object) -> None:
    passages = passages_of(text, tokens, overlap)
    order.shuffle(passages)  # type: ignore[attr-defined]
    (whole,) = joined(hits_of(passages))
    # Chunks that share nothing have lost the white space between them.
    same = (lambda text: re.sub(r"\s+", "", text)) if overlap == 0 else str
    assert same(whole.passage.text) == same(text)
    assert whole.passage.chunks == (0, len(passages) - 1) or len(passages) == 1
    assert whole.passage.id == passages[0].id


@settings(deadline=None)
@given(text=DOCUMENTS, picked=st.sets(st.integers(0, 30)), tokens=st.integers(4, 12))
def test_every_joined_passage_is_a_piece_of_the_text(text: str, picked: set[int], tokens: int) -> None:
    passages = [passage for passage in passages_of(text, tokens, 2) if passage.chunk in picked]
    parts = joined(hits_of(passages))
    for part in parts:
        assert part.passage.start is not None
        assert text[part.passage.start :].startswith(part.passage.text)
    spans = sorted(part.passage.chunks or (part.passage.chunk, part.passage.chunk) for part in parts)
    covered = [chunk for first, last in spans for chunk in range(first or 0, (last or 0) + 1)]
    assert covered == sorted(passage.chunk or 0 for passage in passages)
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(spans))  # type: ignore[operator]
    assert [p.passage for p in joined(parts)] == [p.passage for p in parts]


NUMBERED = " ".join(f"word{i}" for i in range(300))


def test_without_positions_the_overlap_is_found_in_the_text() -> None:
    (whole,) = joined(hits_of(passages_of(NUMBERED, 40, 6, placed=False)))
    assert whole.passage.text == NUMBERED


def test_a_chance_match_of_a_few_characters_is_no_overlap() -> None:
    assert overlap_of("It ended with one", "one more time they sang") == 0
    assert overlap_of("they sang the long song again", "the long song again and again") == len("the long song again")
    hits = [hit("a", chunk=0, document="d", text="It ended with one"), hit("b", chunk=1, document="d", text="one more")]
    assert joined(hits)[0].passage.text == "It ended with one\none more"


def test_a_joined_passage_stands_where_its_best_hit_stood() -> None:
    hits = [
        hit("x", 0.9, document="x", chunk=4),
        hit("d2", 0.8, document="d", chunk=2, text="two", start=4),
        hit("y", 0.7, document="y", chunk=3),
        hit("d1", 0.6, document="d", chunk=1, text="one", start=0),
        hit("d4", 0.5, document="d", chunk=4, text="four", start=20),
        hit("unknown", 0.4, document="d", chunk=None),
    ]
    parts = joined(hits)
    assert ids(parts) == ["x", "d2", "y", "d4", "unknown"]
    assert (parts[1].passage.text, parts[1].passage.chunks, parts[1].score) == ("one\ntwo", (1, 2), 0.8)
    assert parts[0] is hits[0]


def test_the_same_chunk_twice_is_there_once() -> None:
    twice = [hit("a", 0.9, document="d", chunk=1, text="one"), hit("b", 0.8, document="d", chunk=1, text="one")]
    assert ids(joined(twice)) == ["a"]


# Parents


def fetched(passages: list[Passage], spans: list[ChunkSpan]) -> list[Passage]:
    """What a store would answer."""
    return [p for span in spans for p in passages if p.chunk is not None and span.first <= p.chunk <= span.last]


def test_a_hit_grows_around_itself_up_to_the_budget() -> None:
    passages = passages_of(NUMBERED, 22, 4)
    middle = next(p for p in passages if p.chunk == 7)
    for chunks, expected in ((1, (7, 7)), (2, (7, 8)), (3, (6, 8)), (5, (5, 9))):
        budget = sum(tokens_of(p.text) for p in passages[7 : 7 + chunks]) + 4
        spans = spans_around(hits_of([middle]), budget)
        (parent,) = grown(hits_of([middle]), fetched(passages, spans), budget)
        assert (parent.passage.chunks or (7, 7)) == expected
        assert parent.passage.text in NUMBERED
        assert parent.passage.id == middle.id


def test_a_document_that_fits_is_handed_over_whole() -> None:
    passages = passages_of(NUMBERED, 22, 4)
    for found in passages:
        spans = spans_around(hits_of([found]), 10_000)
        (parent,) = grown(hits_of([found]), fetched(passages, spans), 10_000)
        assert parent.passage.text == NUMBERED


@settings(deadline=None)
@given(picked=st.lists(st.integers(0, 15), min_size=1, unique=True), budget=st.integers(0, 600))
def test_parents_never_say_the_same_text_twice(picked: list[int], budget: int) -> None:
    passages = passages_of(NUMBERED, 22, 4)
    hits: list[Hit] = hits_of([passages[i] for i in picked])
    parents = grown(hits, fetched(passages, spans_around(hits, budget)), budget)
    words = [word for parent in parents for word in parent.passage.text.split()]
    apart = sorted(parent.passage.chunks or (parent.passage.chunk,) * 2 for parent in parents)
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(apart))  # type: ignore[operator]
    assert len(set(words)) == len(words)
    assert {p.id for p in hits_passages(parents)} <= {passages[i].id for i in picked}


def hits_passages(hits: list[Hit]) -> list[Passage]:
    return [hit.passage for hit in hits]


def test_a_hit_of_unknown_position_has_no_parent() -> None:
    assert spans_around([hit("a", text=NUMBERED)], 10_000) == []
    assert ids(grown([hit("a", text=NUMBERED)], [], 10_000)) == ["a"]


def test_nothing_is_fetched_where_nothing_more_would_fit() -> None:
    (passage, *_) = passages_of(NUMBERED, 22, 4)
    assert spans_around(hits_of([passage]), tokens_of(passage.text) - 1) == []
    assert spans_around(hits_of([passage]), 2 * tokens_of(passage.text)) == [ChunkSpan("sports", "d", 0, 2)]
