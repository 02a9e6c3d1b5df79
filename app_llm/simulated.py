"""Engine, encoder and reranker without a model, for load tests: fast, configurable, deterministic. Never a default."""

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
from contracts.types import Encoding, FinishReason, Pair, Prompt, Sampling, Scores

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
    """Waits as a model would and says words made from a hash of the prompt and the seed: the same prompt, the same
    answer. Of the sampling, `max_tokens` and `stop` count too."""

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
        return Accepted(tokens, self._run(text, prompt.sampling, self.context_tokens - tokens))

    async def _run(self, text: str, sampling: Sampling, room: int) -> AsyncGenerator[Piece, None]:
        settings = self._settings
        seeded = text if sampling.seed is None else f"{text}\n{sampling.seed}"
        digest = hashlib.sha256(seeded.encode()).digest()
        fails = int.from_bytes(digest[:4]) / 2**32 < settings.simulated_failure_rate
        length = min(sampling.max_tokens, room, settings.simulated_answer_tokens)
        words = [f"{' ' if i else ''}{digest[i % 32]:02x}{i}" for i in range(length)]
        answer = "".join(words)
        shown, made = _stopped(answer, sampling.stop)
        stops = shown < len(answer) or length == settings.simulated_answer_tokens
        reason: FinishReason = "stop" if stops else "length"
        end = 0
        async with self._slots:
            for i, word in enumerate(words):
                await asyncio.sleep(settings.simulated_token_seconds if i else settings.simulated_first_token_seconds)
                if fails and i >= length // 2:
                    raise SimulatedFailure("simulated failure")
                start, end = end, end + len(word)
                last = end >= made
                yield Piece(answer[start : min(end, shown)], 1, reason if last else None)
                if last:
                    return

    def tokenizer_json(self) -> str:
        """One token a word."""
        return WORD_TOKENIZER

    def alive(self) -> bool:
        """Always."""
        return True

    def stop(self) -> None:
        """Nothing to stop."""


def _stopped(answer: str, stop: Sequence[str]) -> tuple[int, int]:
    """How much of `answer` is shown, and how much is made, in characters, when it ends at the first of `stop`: as with
    vLLM, the stop text itself is made and not shown."""
    found = [(at, at + len(text)) for text in stop if (at := answer.find(text)) >= 0]
    return min(found, default=(len(answer), len(answer)))


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
            words = _words(text)
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


class OverlapReranker:
    """The share of a question's different words that its text has too."""

    window = 256
    """Words of a pair that count."""

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:  # noqa: ARG002
        scores = np.zeros(len(pairs), dtype=np.float32)
        lengths: list[int] = []
        for i, (question, text) in enumerate(pairs):
            asked, said = _words(question), _words(text)
            lengths.append(len(asked) + len(said))
            asked = asked[: self.window]
            wanted = set(asked)
            if wanted:
                scores[i] = len(wanted.intersection(said[: self.window - len(asked)])) / len(wanted)
        return Scores(scores, tuple(lengths), tuple(i for i, length in enumerate(lengths) if length > self.window))


def _words(text: str) -> list[str]:
    return [_NO_LETTERS.sub("", word) for word in text.lower().split()]
