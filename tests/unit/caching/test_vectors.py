"""Vectors of questions are made once for each text and encoder."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from app.caching.bounded import Bounds
from app.caching.vectors import CachingEncoder
from app.errors import ModelServiceDown, PharosError
from app_llm.simulated import HashEncoder
from tests.unit.caching.support import ROOMY, Encoder, Seen


class Setting:
    """A cache over the hash encoder. `served` is its name, or why nobody can say."""

    def __init__(self, bounds: Bounds = ROOMY) -> None:
        self.served: str | PharosError = "hash"
        self.encoder = Encoder()
        self.seen = Seen()
        self.cache = CachingEncoder(self.encoder, self._name, bounds, self.seen)

    async def _name(self) -> str:
        if isinstance(self.served, PharosError):
            raise self.served
        return self.served


async def test_what_is_known_is_not_encoded_again_and_took_no_time() -> None:
    setting = Setting()
    first = await setting.cache.served(["one two"])
    again = await setting.cache.served(["one two"])
    np.testing.assert_array_equal(again.value.vectors, first.value.vectors)
    assert again.value.tokens == first.value.tokens == (2,)
    assert (first.queued_seconds, first.served_seconds) == (1, 1)
    assert (again.queued_seconds, again.served_seconds) == (0, 0)
    assert setting.encoder.calls == [["one two"]]
    assert setting.seen.looked == {"miss": 1, "exact": 1}


async def test_of_several_texts_only_the_unknown_are_encoded_and_they_keep_their_order() -> None:
    setting = Setting()
    long = "word " * (HashEncoder.window + 1)
    texts = ["a", long, "b c", "d"]
    await setting.cache.served([long, "d"])
    mixed = (await setting.cache.served(texts)).value
    expected = await HashEncoder(64).encode(texts)
    np.testing.assert_array_equal(mixed.vectors, expected.vectors)
    assert (mixed.tokens, mixed.truncated) == (expected.tokens, expected.truncated)
    assert setting.encoder.calls == [[long, "d"], ["a", "b c"]]


async def test_the_text_counts_to_the_letter() -> None:
    setting = Setting()
    for text in ("US", "us", "us "):
        await setting.cache.served([text])
    assert len(setting.encoder.calls) == 3


async def test_another_encoder_makes_its_own() -> None:
    setting = Setting()
    for name in ("hash", "other", "hash"):
        setting.served = name
        await setting.cache.served(["a"])
    assert len(setting.encoder.calls) == 2


async def test_while_nobody_knows_which_encoder_is_served_nothing_is_looked_up() -> None:
    setting = Setting()
    await setting.cache.served(["a"])
    setting.served = ModelServiceDown("gone")
    await setting.cache.served(["a"])
    assert len(setting.encoder.calls) == 2
    assert setting.seen.looked == {"miss": 1, "skipped": 1}


async def test_a_kept_vector_does_not_keep_its_batch() -> None:
    setting = Setting()
    made = await setting.cache.served([f"text {i}" for i in range(64)])
    found = setting.cache.kept.get(("hash", "text 7"))
    assert found is not None
    assert found.row.base is None
    assert not np.shares_memory(found.row, made.value.vectors)


async def test_the_bytes_it_says_are_about_what_it_takes() -> None:
    setting = Setting(Bounds(5000, 100_000_000, 3600))
    texts = [f"a question with the number {i} in it, of about this length?" for i in range(2000)]
    setting.encoder.calls = []
    await setting.cache.served(["warm"])
    tracemalloc.start()
    for text in texts:
        await setting.cache.served(["".join(text)])
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert setting.cache.kept.bytes == pytest.approx(used, rel=0.35)
