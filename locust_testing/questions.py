"""What the users ask: questions over the topics that a server has, a few topics far more often than the others."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "setup_milvus" / "sample" / "questions.jsonl"
"""The sample corpus' questions, whose answers are in it."""
SKEW = 1.0
"""Zipf's exponent: 1 is his law itself. Web caches see 0.64 to 0.83 (Breslau et al., INFOCOM 1999); the larger, the
hotter the first topics."""
NO_TOPIC_SHARE = 0.2
"""Questions that name no topic and are searched for in all of them."""

_GENERIC = (
    "What is the latest news about {topic}?",
    "What happened in {topic} this week?",
    "Who is mentioned most often in {topic}?",
    "What has changed in {topic}, and why?",
    "Which places play a part in {topic}?",
    "What did officials say about {topic}?",
    "How much money is spent on {topic}?",
    "Which numbers are reported about {topic}?",
    "What is planned next in {topic}?",
    "What are the main disagreements in {topic}?",
)
"""For topics that are not the sample's: they find passages, whatever the documents are."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask; `topic` None asks all topics."""

    text: str
    topic: str | None

    def body(self, *, max_tokens: int, stream: bool) -> dict[str, object]:
        """The body of POST /ask."""
        topic = {} if self.topic is None else {"topic": self.topic}
        return {"question": self.text, "max_tokens": max_tokens, "stream": stream, **topic}


def sample_questions(path: Path = SAMPLE) -> dict[str, list[str]]:
    """The questions of each topic; none where the file is not there."""
    by_topic: dict[str, list[str]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            by_topic.setdefault(row["topic"], []).append(row["question"])
    return by_topic


def zipf_weights(count: int, skew: float) -> list[float]:
    """Weights of the ranks 1, 2, …: 1 / rank ** skew."""
    return [1 / rank**skew for rank in range(1, count + 1)]


class Questions:
    """Draws questions. `topics` are names and numbers of passages, as GET /topics has them: the largest topic gets the
    most questions, the n-th one n ** -skew times as many. Without topics all questions are the sample's, about
    anything.
    """

    def __init__(
        self, topics: Iterable[tuple[str, int]], sample: Mapping[str, Sequence[str]], skew: float = SKEW
    ) -> None:
        # By name where the sizes are equal, so that all processes of a load test agree on the order.
        self.topics = [name for name, _ in sorted(topics, key=lambda topic: (-topic[1], topic[0]))]
        self._weights = list(accumulate(zipf_weights(len(self.topics), skew)))
        self._sample = {name: list(questions) for name, questions in sample.items()}
        self._anything = [text for texts in self._sample.values() for text in texts] or ["What is in the documents?"]

    def draw(self, rng: random.Random) -> Question:
        """The next question."""
        if not self.topics:
            return Question(rng.choice(self._anything), None)
        topic = rng.choices(self.topics, cum_weights=self._weights)[0]
        texts = self._sample.get(topic) or [text.format(topic=topic) for text in _GENERIC]
        return Question(rng.choice(texts), None if rng.random() < NO_TOPIC_SHARE else topic)
