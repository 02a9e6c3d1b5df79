"""A question and the passages found for it to the prompt that is sent: facts about the generator, and its budget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from app.errors import PromptTooLong
from app.prompting import TokenRuler, grounded_prompt
from contracts.types import ModelCard, Passage, Prompt, PromptOrder, Sampling


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """What the gateway knows of the model service's generator."""

    card: ModelCard
    ruler: TokenRuler


class GroundUseCase(Protocol):
    """What makes prompts: `Grounding`, or a wrapper around it."""

    async def ground(
        self, question: str, passages: Sequence[Passage], sampling: Sampling, order: PromptOrder = "best_last"
    ) -> tuple[Prompt, tuple[Passage, ...]]: ...


class Grounding:
    """`prompt_tokens` bounds a prompt below the model's context window: on a slow machine reading costs more than
    writing."""

    def __init__(self, generator_facts: Callable[[], Awaitable[GeneratorFacts]], *, prompt_tokens: int) -> None:
        self._generator_facts = generator_facts
        self._prompt_tokens = prompt_tokens

    async def ground(
        self, question: str, passages: Sequence[Passage], sampling: Sampling, order: PromptOrder = "best_last"
    ) -> tuple[Prompt, tuple[Passage, ...]]:
        """The prompt, and those of the passages (best first) that are in it. Raises PromptTooLong, and what asking for
        the facts raises."""
        facts = await self._generator_facts()
        budget = min(self._prompt_tokens, facts.card.context_window - sampling.max_tokens)
        grounded = grounded_prompt(question, passages, budget, facts.ruler, order)
        if not grounded.passages:
            raise PromptTooLong(
                f"The question leaves no room for a passage in a prompt of {budget:,} tokens; "
                "shorten it or ask for fewer max_tokens."
            )
        # An id of our own: two requests may carry the same X-Request-Id, and the engine tells prompts apart by it.
        return Prompt(uuid4().hex, grounded.messages, sampling=sampling), grounded.passages
