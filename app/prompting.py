"""What the model is asked: pure functions from a question and its passages to messages within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from contracts.types import Message, Passage, PromptOrder

NOT_IN_DOCUMENTS = "not in the documents"
"""What the model is told to say, and the gateway says itself, when the passages do not hold the answer."""

INSTRUCTIONS = (
    "Answer with one short sentence from the passages and cite the passage by its number, like [1]. "
    f"If the passages do not hold the answer, say: {NOT_IN_DOCUMENTS}."
)

CHAT_TEMPLATE_TOKENS = 64
"""Room for what a model's chat template wraps around the messages (role marks, a date line); ChatML needs about 15."""

WORTH_CUTTING_TOKENS = 32
"""A passage that would be cut to fewer tokens than this is left out: a stump misleads more than it helps."""


class TokenRuler(Protocol):
    """Measures and cuts text in the generator's tokens."""

    def count(self, text: str) -> int:
        """Tokens in `text`."""
        ...

    def cut(self, text: str, tokens: int) -> str:
        """The longest beginning of `text` that is at most `tokens` tokens."""
        ...


@dataclass(frozen=True, slots=True)
class GroundedPrompt:
    """Messages to send, and the passages in them: passage i is cited as [i + 1]."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...]


def grounded_prompt(
    question: str,
    passages: Sequence[Passage],
    budget_tokens: int,
    ruler: TokenRuler,
    order: PromptOrder = "best_last",
) -> GroundedPrompt:
    """The prompt for `question` from the best passages that fit into `budget_tokens`, best first.

    `passages` come best first; `order` is how the message has them. The one that no longer fits is cut; those after it
    are left out. The question and the instructions always stay whole: a budget too small for them gives a prompt
    without passages.
    """
    fixed = ruler.count(INSTRUCTIONS) + ruler.count(_ask(question, [], order)) + CHAT_TEMPLATE_TOKENS
    left = budget_tokens - fixed
    chosen: list[Passage] = []
    for passage in passages:
        header = ruler.count(_numbered(len(chosen) + 1, _without_text(passage)))
        length = ruler.count(passage.text)
        if header + length <= left:
            chosen.append(passage)
            left -= header + length
            continue
        if left - header >= WORTH_CUTTING_TOKENS:
            chosen.append(msgspec.structs.replace(passage, text=ruler.cut(passage.text, left - header)))
        break
    messages = (Message("system", INSTRUCTIONS), Message("user", _ask(question, chosen, order)))
    return GroundedPrompt(messages, tuple(chosen))


def _ask(question: str, passages: Sequence[Passage], order: PromptOrder) -> str:
    numbered = [_numbered(number, passage) for number, passage in enumerate(passages, start=1)]
    match order:
        case "best_last":  # next to the question: small models answer from what they read last (docs/benchmarks.md)
            numbered.reverse()
        case "ends":  # Liu et al., "Lost in the middle" (TACL 2024): long prompts are read best there; the best is last
            numbered = numbered[1::2] + numbered[0::2][::-1]
        case "best_first":
            pass
    return f"{''.join(numbered)}Question: {question}\nAnswer in one short sentence."


def as_read(passage: Passage) -> str:
    """A passage as the model reads it: title, date and text."""
    dated = f" ({passage.date})" if passage.date else ""
    return f"{passage.title}{dated}\n{passage.text}"


def _numbered(number: int, passage: Passage) -> str:
    return f"[{number}] {as_read(passage)}\n\n"


def _without_text(passage: Passage) -> Passage:
    return msgspec.structs.replace(passage, text="")
