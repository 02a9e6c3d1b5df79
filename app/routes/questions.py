"""What every question about the documents may say: its words, where to look, and how."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from app.errors import InvalidRequest
from app.ranking.options import RankingOptions
from contracts import wire
from contracts.filters import METADATA_KEY
from contracts.types import ExpandMode, Filters, SearchMode

VALUES_MAX = 64
"""Values of one filter."""

Value = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f]*$")]
"""No control characters: no stored value holds one."""
Values = Annotated[list[Value], Field(min_length=1, max_length=VALUES_MAX)]


class FiltersBody(BaseModel):
    """What a passage's document must be: everything that is given must hold, and of a list one."""

    model_config = ConfigDict(extra="forbid")
    date_from: dt.date | None = Field(default=None, description="Not before this day.", examples=["2025-09-01"])
    date_to: dt.date | None = Field(default=None, description="Not after this day.", examples=["2025-09-30"])
    document_ids: Values | None = Field(default=None, description="One of these documents, by their ids.")
    authors: Values | None = Field(default=None, description="By one of these authors, as written there.")
    metadata: dict[str, Value | Values] | None = Field(
        default=None, max_length=16, description="Further fields that were stored, each with a value or several."
    )

    @field_validator("document_ids", "authors")
    @classmethod
    def _are_unicode(cls, values: list[str] | None) -> list[str] | None:
        return values if values is None else wire.checked_unicode(values)

    @field_validator("metadata")
    @classmethod
    def _names_fields(cls, metadata: dict[str, str | list[str]] | None) -> dict[str, str | list[str]] | None:
        for name, value in (metadata or {}).items():
            if not METADATA_KEY.fullmatch(name):
                raise ValueError(f"{name[:64]!r} cannot be the name of a field")
            wire.checked_unicode([value] if isinstance(value, str) else value)
        return metadata

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.date_from is not None and self.date_to is not None and self.date_from > self.date_to:
            raise ValueError("'date_from' is after 'date_to'")
        return self

    def filters(self) -> Filters:
        """The same as the value that the store takes; equal ones are equal however they were written."""
        return Filters(
            date_from=self.date_from.isoformat() if self.date_from is not None else None,
            date_to=self.date_to.isoformat() if self.date_to is not None else None,
            document_ids=_sorted(self.document_ids),
            authors=_sorted(self.authors),
            metadata=tuple(
                (name, _sorted([value] if isinstance(value, str) else value))
                for name, value in sorted((self.metadata or {}).items())
            ),
        )


class QuestionBody(BaseModel):
    """A question, where to look and how."""

    model_config = ConfigDict(extra="forbid")
    question: str = Field(
        description="The question, in natural language.",
        examples=["When will the comet found by Hendrik Uirab be nearest to us?"],
    )
    topic: str | None = Field(default=None, description="Look in this topic only.", examples=["science"])
    topics: list[str] | None = Field(
        default=None, min_length=1, max_length=64, description="Look in these topics only.", examples=[["science"]]
    )
    mode: SearchMode | None = Field(
        default=None,
        description="Search by vectors (dense), by words (sparse), or by both, fused. Default: PHAROS_SEARCH_MODE.",
        examples=["hybrid"],
    )
    filters: FiltersBody | None = Field(default=None, description="Look in these documents only.", examples=[None])
    ranking: RankingOptions | None = Field(
        default=None,
        description="How passages are chosen and ordered, where it differs from PHAROS_RANKING.",
        examples=[{"duplicates_above": 0.9}],
    )
    self_query: bool | None = Field(
        default=None,
        description="Make what an English question says about dates and topics filters. Default: PHAROS_SELF_QUERY.",
        examples=[False],
    )
    rerank: bool | None = Field(
        default=None, description="With the reranker or without. Default: PHAROS_RERANK.", examples=[None]
    )

    expand: ExpandMode | None = Field(
        default=None,
        description="Let the LLM say the question in other words (multi_query), or make up a passage that answers it "
        "(hyde), and search for that too; or not (off). Default: PHAROS_EXPAND.",
        examples=["off"],
    )

    @field_validator("question")
    @classmethod
    def _not_blank(cls, question: str) -> str:
        if not question.strip():
            raise ValueError("is empty; ask something")
        return question.strip()

    @field_validator("question", "topic", "topics")
    @classmethod
    def _is_unicode(cls, value: str | list[str] | None) -> str | list[str] | None:
        return wire.checked_unicode(value)

    @model_validator(mode="after")
    def _one_way_to_say_topics(self) -> Self:
        if self.topic is not None and self.topics is not None:
            raise ValueError("give 'topic' or 'topics', not both")
        return self

    def where(self) -> tuple[str, ...]:
        """The topics, each once."""
        return tuple(dict.fromkeys([self.topic] if self.topic is not None else self.topics or []))

    def narrowed(self) -> Filters:
        """The filters."""
        return Filters() if self.filters is None else self.filters.filters()


def within(body: QuestionBody, top_k: int, *, question_chars_max: int, top_k_max: int) -> int:
    """How many passages are wanted. Raises InvalidRequest for a question beyond the limits that are settings."""
    if len(body.question) > question_chars_max:
        raise InvalidRequest(
            f"question: has {len(body.question):,} characters; at most {question_chars_max:,} are allowed"
        )
    if top_k <= top_k_max:
        return top_k
    if "top_k" in body.model_fields_set:
        raise InvalidRequest(f"top_k: is {top_k}; at most {top_k_max} is allowed")
    return top_k_max  # the default, which nobody has asked for


def _sorted(values: list[str] | None) -> tuple[str, ...]:
    return tuple(sorted(set(values or ())))
