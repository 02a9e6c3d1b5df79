"""The same questions asked in several ways, in turns, so that whatever else the machine does hurts all ways alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from evaluation.gateway import of_each
from evaluation.sets import Question


class Timed(Protocol):
    """What an answer must tell: how long the caller waited."""

    @property
    def seconds(self) -> float: ...


T = TypeVar("T")
TimedT = TypeVar("TimedT", bound=Timed)


async def in_turns(
    ways: Mapping[str, Callable[[str], Awaitable[T]]], questions: Sequence[Question], concurrent: int
) -> dict[str, dict[str, T]]:
    """Way → question id → what was said. `concurrent` questions are asked at the same time, all of them the same way,
    then the same ones the next way: ways that were asked together would share the gateway's batches. Each wave of
    questions begins with another way, since the first may find caches cold. Raises what the first that fails raises.
    """
    said: dict[str, dict[str, T]] = {way: {} for way in ways}
    names = list(ways)
    for wave, start in enumerate(range(0, len(questions), concurrent)):
        first = wave % len(names)
        for way in names[first:] + names[:first]:
            said[way] |= await of_each(ways[way], questions[start : start + concurrent], concurrent)
    return said


async def waits(
    ways: Mapping[str, Callable[[str], Awaitable[TimedT]]],
    questions: Sequence[Question],
    concurrent: int,
    rounds: int,
) -> dict[str, dict[str, float]]:
    """Way → question id → seconds that its caller waited in the best of so many rounds: what else the machine does only
    adds to it. Raises as `in_turns`."""
    found = [await in_turns(ways, questions, concurrent) for _ in range(rounds)]
    return {
        way: {question.id: min(one[way][question.id].seconds for one in found) for question in questions}
        for way in ways
    }
