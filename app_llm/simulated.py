"""An engine and an encoder without a model, for load tests: fast, configurable, deterministic. Never a default."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from app_llm.errors import too_long
from app_llm.generator import Accepted, Piece
from app_llm.settings import Settings
from contracts.types import Encoding, FinishReason, Prompt

_NO_LETTERS = re.compile(r"\W+")

WORD_TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    }
)
"""A tokenizer.json in which every word is one token, which is how both classes here count."""


class SimulatedFailure(RuntimeError):
    """The failure that `simulated_failure_rate` asks for."""


class SimulatedEngine:
    """Waits as a model would and says words made from a hash of the prompt: the same prompt, the same answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.simulated_sequences)
        self.at_once = settings.simulated_sequences
        self.context_tokens = settings.context_tokens or 4096

    async def accept(self, prompt: Prompt) -> Accepted:
        text = prompt.text if prompt.text is not None else "\n".join(m.content for m in prompt.messages)
        tokens = len(text.split())
        if tokens >= self.context_tokens:
            raise too_long(tokens, self.context_tokens)
        room = self.context_tokens - tokens
        return Accepted(tokens, self._run(text, min(prompt.sampling.max_tokens, room)))

    async def _run(self, text: str, max_tokens: int) -> AsyncGenerator[Piece, None]:
        settings = self._settings
        digest = hashlib.sha256(text.encode()).digest()
        fails = int.from_bytes(digest[:4]) / 2**32 < settings.simulated_failure_rate
        length = min(max_tokens, settings.simulated_answer_tokens)
        reason: FinishReason = "stop" if length == settings.simulated_answer_tokens else "length"
        async with self._slots:
            for i in range(length):
                await asyncio.sleep(settings.simulated_token_seconds if i else settings.simulated_first_token_seconds)
                if fails and i >= length // 2:
                    raise SimulatedFailure("simulated failure")
                word = f"{digest[i % 32]:02x}{i}"
                yield Piece(word if i == 0 else f" {word}", 1, None if i + 1 < length else reason)

    def tokenizer_json(self) -> str:
        """One token a word."""
        return WORD_TOKENIZER

    def alive(self) -> bool:
        """Always."""
        return True

    def stop(self) -> None:
        """Nothing to stop."""


class HashEncoder:
    """Bags of hashed words, normalised: texts that share words are near each other, and it costs microseconds."""

    window = 256
    """Words that count; later ones are cut and reported, as with a real encoder."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        lengths: list[int] = []
        for row, text in zip(vectors, texts, strict=True):
            words = [_NO_LETTERS.sub("", word) for word in text.lower().split()]
            lengths.append(len(words))
            for word in words[: self.window] or [""]:
                digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                row[int.from_bytes(digest[:4]) % self.dimension] += 1.0 if digest[4] & 1 else -1.0
            # Two words may cancel each other out; a vector needs a length all the same.
            if not row.any():
                row[0] = 1.0
            row /= np.linalg.norm(row)
        truncated = tuple(i for i, length in enumerate(lengths) if length > self.window)
        return Encoding(vectors, tuple(lengths), truncated)

    def tokenizer_json(self) -> str:
        """One token a word."""
        return WORD_TOKENIZER
