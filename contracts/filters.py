"""Typed filters to the expression that Milvus reads. Pure, and the only place where a caller's words meet one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from contracts.types import Filters

_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Control characters for which Milvus Lite's strings have no escape. No stored text holds one."""

METADATA_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def topic_filter(topics: Sequence[str]) -> str:
    """The expression that keeps a search inside the partitions of `topics`; empty for all of them."""
    return _one_of("topic", [_quoted(topic) for topic in sorted(topics)])


def expression(topics: Sequence[str], filters: Filters) -> str:
    """`topic_filter` and all of `filters`; empty where nothing is asked. Raises ValueError for what cannot be stored,
    and so cannot be meant."""
    parts = [topic_filter(topics)]
    if filters.date_from is not None:
        parts.append(f"day >= {day_number(filters.date_from)}")
    if filters.date_to is not None:
        # Day 0 is a document whose date is not known.
        parts.append(f"day > 0 and day <= {day_number(filters.date_to)}")
    parts.append(_one_of("document_id", [_literal(id) for id in filters.document_ids]))
    parts.append(_one_of("author", [_literal(author) for author in filters.authors]))
    for key, values in filters.metadata:
        if not METADATA_KEY.fullmatch(key):
            raise ValueError(f"{key!r} cannot be the name of a field")
        # Milvus Lite has no `in` for fields of JSON.
        each = " or ".join(f'metadata["{key}"] == {_literal(value)}' for value in values)
        parts.append(f"({each})")
    return " and ".join(part for part in parts if part)


def day_number(date: str) -> int:
    """20160305 for an ISO date, which may have a time after it; 0 for anything else."""
    match = re.match(r"(\d{4})-(\d{2})-(\d{2})(?!\d)", date, re.ASCII)
    return int("".join(match.groups())) if match else 0


def _one_of(field: str, literals: Sequence[str]) -> str:
    if len(literals) == 1:
        return f"{field} == {literals[0]}"
    return f"{field} in [{', '.join(literals)}]" if literals else ""


def _literal(value: str) -> str:
    if _UNWRITABLE.search(value):
        raise ValueError(f"{value!r} holds a control character")
    return _quoted(value)


def _quoted(value: str) -> str:
    """JSON's string escapes are what Milvus' expression grammar reads, so nothing can break out of the quotes."""
    return json.dumps(value, ensure_ascii=False)
