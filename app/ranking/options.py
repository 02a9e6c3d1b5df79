"""What can be switched about the steps, by the operator (PHAROS_RANKING) and by each request."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from contracts.types import PromptOrder

POOL_FACTOR = 4
POOL_HITS = 30
"""Steps that drop or reorder hits look at so many times more than are wanted, and at least at so many."""


class RankingOptions(BaseModel):
    """Everything is off unless it is said. docs/ranking.md says what each costs and gains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_score: float | None = Field(
        default=None, ge=-1, le=1, description="Cosine similarity below which a passage is not relevant."
    )
    half_life_days: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="A document this old counts for half of today's; null: age is nothing.",
    )
    duplicates_above: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of five-word runs in common from which a passage repeats a better one.",
    )
    mmr_lambda: float | None = Field(
        default=None, ge=0, le=1, description="Maximal marginal relevance: 1 is all relevance, 0 is all variety."
    )
    join_neighbours: bool = Field(default=False, description="Neighbouring chunks that were found become one passage.")
    parent_tokens: int = Field(
        default=0, ge=0, le=16_384, description="Hand over the document around each passage, up to so many tokens."
    )
    prompt_order: PromptOrder = Field(
        default="best_last", description="Where the prompt has the best passages: last, first, or at both ends."
    )
    answerable_above: float | None = Field(
        default=None, ge=0, le=1, description="Refuse questions whose calibrated chance of an answer is lower."
    )

    def overridden(self, request: RankingOptions | None) -> RankingOptions:
        """These with what `request` says itself; an explicit null or 0 turns a step off."""
        if request is None:
            return self
        return self.model_copy(update={name: getattr(request, name) for name in request.model_fields_set})

    def __str__(self) -> str:
        return self.model_dump_json(exclude_defaults=True)

    @property
    def needs_vectors(self) -> bool:
        """Whether the store must return the passages' vectors."""
        return self.mmr_lambda is not None and self.mmr_lambda < 1

    def pool(self, limit: int, most: int) -> int:
        """How many hits to search for so that `limit` are left, `most` at most."""
        chooses = self.half_life_days is not None or self.duplicates_above is not None or self.needs_vectors
        return min(max(limit * POOL_FACTOR, POOL_HITS), max(most, limit)) if chooses else limit
