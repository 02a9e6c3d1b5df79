"""The engine and the encoder without a model: deterministic, and as strict as real ones."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from app_llm.errors import PromptRefused
from app_llm.generator import Piece
from app_llm.settings import Settings
from app_llm.simulated import HashEncoder, SimulatedEngine, SimulatedFailure
from contracts.types import Message, Prompt, Sampling


def engine(
    *,
    first_token_seconds: float = 0,
    token_seconds: float = 0,
    answer_tokens: int = 8,
    sequences: int = 256,
    failure_rate: float = 0,
    context_tokens: int = 100,
) -> SimulatedEngine:
    return SimulatedEngine(
        Settings(
            simulated_first_token_seconds=first_token_seconds,
            simulated_token_seconds=token_seconds,
            simulated_answer_tokens=answer_tokens,
            simulated_sequences=sequences,
            simulated_failure_rate=failure_rate,
            context_tokens=context_tokens,
        )
    )


def prompt(text: str = "Who won?", max_tokens: int = 256) -> Prompt:
    return Prompt("q1", text=text, sampling=Sampling(max_tokens=max_tokens))


async def pieces_of(simulated: SimulatedEngine, asked: Prompt) -> list[Piece]:
    accepted = await simulated.accept(asked)
    async with aclosing(accepted.pieces) as pieces:
        return [piece async for piece in pieces]


async def test_the_same_prompt_has_the_same_answer_in_every_engine() -> None:
    assert await pieces_of(engine(), prompt()) == await pieces_of(engine(), prompt())


async def test_different_prompts_have_different_answers() -> None:
    one, other = await pieces_of(engine(), prompt("one")), await pieces_of(engine(), prompt("other"))
    assert [piece.text for piece in one] != [piece.text for piece in other]


async def test_messages_are_a_prompt_too() -> None:
    asked = Prompt("q1", messages=(Message("system", "Be brief."), Message("user", "Who won?")))
    accepted = await engine().accept(asked)
    await accepted.pieces.aclose()
    assert accepted.prompt_tokens == 4
    assert len(await pieces_of(engine(), asked)) == 8


@pytest.mark.parametrize(
    ("max_tokens", "made", "reason"), [(1, 1, "length"), (5, 5, "length"), (8, 8, "stop"), (99, 8, "stop")]
)
async def test_max_tokens_is_respected(max_tokens: int, made: int, reason: str) -> None:
    pieces = await pieces_of(engine(), prompt(max_tokens=max_tokens))
    assert sum(piece.tokens for piece in pieces) == made
    assert [piece.finish_reason for piece in pieces] == [None] * (made - 1) + [reason]


@pytest.mark.parametrize("stop_at", [0, 1, 5])
async def test_an_answer_ends_before_the_first_of_its_stop_texts(stop_at: int) -> None:
    words = [piece.text for piece in await pieces_of(engine(), prompt())]
    # Across two words, as a stop text may be; the later one does not count.
    stop = (words[6], (words[stop_at] + words[stop_at + 1])[1:-1])
    asked = Prompt("q1", text="Who won?", sampling=Sampling(stop=stop))
    pieces = await pieces_of(engine(), asked)
    assert "".join(piece.text for piece in pieces) == "".join(words)[: "".join(words).index(stop[1])]
    assert [piece.finish_reason for piece in pieces] == [None] * (stop_at + 1) + ["stop"]


async def test_another_seed_gives_another_answer() -> None:
    def seeded(seed: int | None) -> Prompt:
        return Prompt("q1", text="Who won?", sampling=Sampling(seed=seed))

    answers = [await pieces_of(engine(), seeded(seed)) for seed in (None, 1, 1, 2)]
    assert answers[1] == answers[2]
    assert answers[0] != answers[1] != answers[3]


async def test_the_number_of_words_is_the_number_of_tokens() -> None:
    pieces = await pieces_of(engine(), prompt())
    text = "".join(piece.text for piece in pieces)
    tokenizer = Tokenizer.from_str(engine().tokenizer_json())
    assert len(text.split()) == len(tokenizer.encode(text).ids) == sum(piece.tokens for piece in pieces)


async def test_an_answer_ends_where_the_context_does() -> None:
    pieces = await pieces_of(engine(context_tokens=10), prompt("a b c d e f g"))
    assert len(pieces) == 3
    assert pieces[-1].finish_reason == "length"


async def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(PromptRefused) as refusal:
        await engine(context_tokens=10).accept(prompt("a b c d e f g h i j"))
    assert (refusal.value.problem.status, refusal.value.problem.code) == (413, "prompt_too_long")


async def test_at_failure_rate_0_nothing_fails() -> None:
    simulated = engine(failure_rate=0, answer_tokens=2)
    answers = [await pieces_of(simulated, prompt(f"question {i}")) for i in range(100)]
    assert {len(pieces) for pieces in answers} == {2}


@pytest.mark.parametrize("max_tokens", [1, 2, 8])
async def test_at_failure_rate_1_everything_fails_half_way(max_tokens: int) -> None:
    simulated = engine(failure_rate=1)
    for i in range(20):
        pieces = (await simulated.accept(prompt(f"question {i}", max_tokens))).pieces
        for _ in range(max_tokens // 2):
            assert (await anext(pieces)).finish_reason is None
        with pytest.raises(SimulatedFailure):
            await anext(pieces)


async def test_in_between_the_share_fails_and_always_the_same_prompts() -> None:
    async def failures() -> list[int]:
        simulated = engine(failure_rate=0.3, answer_tokens=1)
        failed = []
        for i in range(300):
            try:
                await pieces_of(simulated, prompt(f"question {i}"))
            except SimulatedFailure:
                failed.append(i)
        return failed

    first = await failures()
    assert 60 <= len(first) <= 120
    assert first == await failures()


async def test_it_takes_the_time_it_is_told_to_take() -> None:
    simulated = engine(first_token_seconds=0.05, token_seconds=0.02, answer_tokens=4)
    accepted = await simulated.accept(prompt())
    started = time.monotonic()
    times = [time.monotonic() - started async for _ in accepted.pieces]
    assert times[0] >= 0.045
    assert times[-1] >= 0.1


async def test_prompts_beyond_the_sequences_wait_for_a_slot_and_closing_frees_it() -> None:
    simulated = engine(sequences=1)
    first = (await simulated.accept(prompt("one"))).pieces
    await anext(first)
    waiting = asyncio.create_task(pieces_of(simulated, prompt("two")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    await first.aclose()
    assert len(await asyncio.wait_for(waiting, 60)) == 8


TEXTS = st.lists(st.text(max_size=40), max_size=6)


@settings(deadline=None)
@given(TEXTS, st.integers(2, 64))
def test_vectors_are_normalised_float32_rows(texts: list[str], dimension: int) -> None:
    encoding = asyncio.run(HashEncoder(dimension).encode(texts))
    assert encoding.vectors.shape == (len(texts), dimension)
    assert encoding.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoding.vectors, axis=1), 1, rtol=1e-5)
    assert len(encoding.tokens) == len(texts)


@settings(deadline=None)
@given(TEXTS)
def test_a_text_has_the_same_vector_alone_and_among_others(texts: list[str]) -> None:
    together = asyncio.run(HashEncoder(32).encode(texts))
    for row, text in zip(together.vectors, texts, strict=True):
        alone = asyncio.run(HashEncoder(32).encode([text]))
        np.testing.assert_array_equal(row, alone.vectors[0])


async def test_no_texts_give_no_rows_of_the_dimension() -> None:
    encoding = await HashEncoder(384).encode([])
    assert (encoding.vectors.shape, encoding.tokens, encoding.truncated) == ((0, 384), (), ())


async def test_texts_that_share_words_are_near_each_other() -> None:
    vectors = (await HashEncoder(384).encode(["Rain fell in Karachi", "KARACHI: rain!", "Oil prices rose"])).vectors
    assert vectors[0] @ vectors[1] > 0.5
    assert abs(vectors[0] @ vectors[2]) < 0.3


async def test_what_is_longer_than_the_window_is_cut_and_reported() -> None:
    encoder = HashEncoder(64)
    words = [f"w{i}" for i in range(encoder.window + 1)]
    whole, longer = " ".join(words[:-1]), " ".join(words)
    encoding = await encoder.encode(["short", whole, longer, "", longer])
    assert encoding.truncated == (2, 4)
    assert encoding.tokens == (1, encoder.window, encoder.window + 1, 0, encoder.window + 1)
    np.testing.assert_array_equal(encoding.vectors[1], encoding.vectors[2])
