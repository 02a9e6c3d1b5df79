"""The values that travel between the parts of Pharos. All of them are frozen.

They are `msgspec.Struct`s so that one definition serves as the value in a process and as its wire form
(JSON or MessagePack) between two of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "abort", "error"]
PromptOrder = Literal["best_last", "best_first", "ends"]
"""Where a prompt has its best passages."""
SearchMode = Literal["hybrid", "dense", "sparse"]
"""By vectors, by terms (BM25), or by both, fused."""
ExpandMode = Literal["multi_query", "hyde", "off"]
"""What the LLM adds to a question before it is searched: other phrasings, or a passage as an answer might stand in."""
Vectors = NDArray[np.float32]
"""Shape (n, dimension), one L2-normalised row a text."""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Role
    content: str


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the generator picks tokens. `max_tokens` counts completion tokens."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


class Prompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing to generate from: either `messages` (the model's chat template is applied) or raw `text`.

    Whoever runs it ends it with a problem of status 504 when it has not ended `timeout_seconds` after being handed
    over. A duration, since the clocks of two processes cannot be compared. `traceparent` (W3C Trace Context) is the
    span that asks for this prompt, since those of one batch come from different requests.
    """

    request_id: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    sampling: Sampling = Sampling()
    timeout_seconds: float | None = None
    traceparent: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens read and made."""

    prompt_tokens: int
    completion_tokens: int


class PromptProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why one prompt of a batch failed; the others go on. `status` is the HTTP status it would have alone."""

    status: int
    code: str
    detail: str


class Delta(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one prompt gained since its last delta.

    `tokens` is the number of tokens behind `text` (a token may add no text yet). The last delta of a prompt, and no
    other, carries `finish_reason`; with it come `usage` or, when it is "error", `error`.
    """

    request_id: str
    text: str = ""
    tokens: int = 0
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: PromptProblem | None = None

    def then(self, later: Delta) -> Delta:
        """This delta and the next one of the same prompt as one, so that a slow reader costs no memory."""
        return Delta(
            request_id=self.request_id,
            text=self.text + later.text,
            tokens=self.tokens + later.tokens,
            finish_reason=later.finish_reason,
            usage=later.usage,
            error=later.error,
        )


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One write of a generation stream: the deltas of every prompt that advanced.

    The first frame of a stream comes as soon as the engine has accepted the prompts; it holds the refusals, often none.
    """

    deltas: tuple[Delta, ...] = ()


class Encoding(msgspec.Struct, frozen=True):
    """The vectors of some texts, and what it took.

    `tokens[i]` is the length of text i in the encoder's tokens before any truncation; `truncated` lists the indices of
    the texts that were longer than the encoder's window and were cut to it.
    """

    vectors: Vectors
    tokens: tuple[int, ...]
    truncated: tuple[int, ...] = ()


class Pair(NamedTuple):
    """A question and a text that may answer it."""

    question: str
    text: str


class Scores(msgspec.Struct, frozen=True):
    """How well each text of some pairs answers its question, and what it took.

    `scores` has one float32 a pair, 0 to 1: comparable between the pairs of one question, and between questions only as
    far as the model is calibrated. `tokens[i]` is the length of pair i in the reranker's tokens before any truncation;
    `truncated` lists the indices of the pairs that were longer than its window and were cut to it.
    """

    scores: NDArray[np.float32]
    tokens: tuple[int, ...]
    truncated: tuple[int, ...] = ()


class Passage(msgspec.Struct, frozen=True):
    """One chunk of a document as it is found, or several neighbours joined. `score` is the cosine similarity to the
    question, -1 to 1, however it was found.

    `chunk` is its position in the document and `start` the position of its text in the document's, in characters; None
    where the store does not know. `chunks` are the first and the last chunk of one that was joined from several.
    """

    id: str
    document_id: str
    title: str
    topic: str
    date: str
    text: str
    score: float
    author: str = ""
    metadata: dict[str, Any] = {}
    chunk: int | None = None
    start: int | None = None
    chunks: tuple[int, int] | None = None


class ChunkSpan(msgspec.Struct, frozen=True):
    """Chunks `first` to `last` of a document, both included; those that do not exist are left out."""

    topic: str
    document_id: str
    first: int
    last: int


class Filters(msgspec.Struct, frozen=True):
    """What a passage's document must be; all that is given must hold, and of several values one. Days are inclusive
    and written YYYY-MM-DD; a document whose date is not known is in no range."""

    date_from: str | None = None
    date_to: str | None = None
    document_ids: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    metadata: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def within(self, first: dt.date | None, last: dt.date | None) -> Filters:
        """The same for the days from `first` to `last`; None is open."""
        return msgspec.structs.replace(
            self,
            date_from=None if first is None else first.isoformat(),
            date_to=None if last is None else last.isoformat(),
        )


class Queries(msgspec.Struct, frozen=True):
    """What is searched for together: row i of `vectors` is the meaning of text i.

    `asked` is what each of them stands for, where that is something else: by it passages get their `score` and their
    `coverage`, so that thresholds mean the same however a question was put to the search.
    """

    texts: tuple[str, ...]
    vectors: Vectors
    asked: Queries | None = None


Fusion = Literal["scores", "ranks"]
"""How the legs of a hybrid search become one: by a weighted sum of their scores, or by reciprocal ranks."""


class Place(msgspec.Struct, frozen=True):
    """Where a ranking has a passage: 1 is its best; the score is its own (cosine, BM25, fusion's, the reranker's)."""

    rank: int
    score: float


class Hit(msgspec.Struct, frozen=True):
    """A passage as a search found it.

    `score` is by the search's mode: the cosine similarity, BM25, or what fusion made of both. `coverage` is the
    share of the question's terms that the passage has, 0 to 1; None in a search by vectors alone. `vector` is the
    passage's, where the search was asked for it. `legs` are its places in what a hybrid search fused; one that did not
    have it among its best is not there.
    """

    passage: Passage
    score: float
    coverage: float | None = None
    vector: NDArray[np.float32] | None = None
    legs: Mapping[SearchMode, Place] = {}


class Found(msgspec.Struct, frozen=True):
    """The hits of each query, best first, and how they were searched: "dense" where the store has no terms. `encoder`
    made the passages' vectors; "" where the store does not know."""

    mode: SearchMode
    hits: list[list[Hit]]
    encoder: str = ""


class TopicCount(msgspec.Struct, frozen=True):
    """How much of a topic is in the store."""

    topic: str
    documents: int
    passages: int


class CollectionVersion(msgspec.Struct, frozen=True):
    """Which documents a collection holds: `id` is another one whenever they may have changed, and never an old one.
    `changing`: they are being written, or whoever wrote them never said that it had ended."""

    id: str
    changing: bool = False


class Timings(msgspec.Struct, frozen=True):
    """Where the time of one request went, in seconds, by the gateway's own monotonic clock.

    `queue` is all the waiting in the gateway's batchers; `encode`, `search` and `rerank` are the calls themselves;
    `expand` is the LLM's work on the question, and `arrange` the steps of docs/ranking.md; `prompt` is making the
    prompt; `generate` counts from handing it over to its end; `time_to_first_token` counts from the arrival of the
    request. A stage that was not reached is None.
    """

    queue: float
    encode: float | None
    search: float | None
    prompt: float | None
    time_to_first_token: float | None
    generate: float | None
    total: float
    rerank: float | None = None
    expand: float | None = None
    arrange: float | None = None


class ModelCard(msgspec.Struct, frozen=True):
    """What a model service serves: names, the encoder's dimension and window, the generator's context (in tokens).
    `reranker` is "" where there is none. `encoder_backend` is what computes the encoder: its vectors are the same with
    each but for what int8 rounds off."""

    encoder: str
    dimension: int
    encoder_window: int
    generator: str
    context_window: int
    engine: str
    reranker: str = ""
    encoder_backend: str = "torch"


class Readiness(msgspec.Struct, frozen=True):
    """What a model service's /readyz says: whether it takes work, how many prompts it holds and how many it can run at
    the same time (more than that wait inside it)."""

    status: Literal["ready", "draining", "loading"]
    prompts_held: int = 0
    prompts_at_once: int | None = None
