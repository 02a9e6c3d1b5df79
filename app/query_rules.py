"""What a question says about when and what, as filters: self-query by rules, without a model.

English, and deliberately little: a date counts only behind a word that narrows ("in March 2016", "since 2015", "before
3 May 2016") or as a phrase of its own ("last year"); a topic only by its name, behind "about", "on", "in", "under" or
before "news". What is not understood narrows nothing.

It is off unless asked for: "in 2016" may be when something happened and not when it was written about.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_MONTHS = {
    **{"january": 1, "february": 2, "march": 3, "april": 4, "may": 5, "june": 6, "july": 7, "august": 8},
    **{"september": 9, "october": 10, "november": 11, "december": 12},
    **{"jan": 1, "feb": 2, "mar": 3, "apr": 4, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "sept": 9},
    **{"oct": 10, "nov": 11, "dec": 12},
}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_YEAR = r"(?:19|20)\d\d"
_DATE = (
    rf"(?:\d{{4}}-\d\d-\d\d|\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?(?:{_MONTH})\.?,?\s+{_YEAR}"
    rf"|(?:{_MONTH})\.?\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+{_YEAR}|(?:{_MONTH})\.?,?\s+(?:of\s+)?{_YEAR}|{_YEAR})(?![\w-])"
)
_UNITS = {"day": 1, "week": 7}
_NUMBERS = {
    **{"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6},
    **{"seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12},
}
_THE = r"(?:the\s+)?(?:year\s+)?"


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What was understood. Days are inclusive; None is open."""

    date_from: dt.date | None
    date_to: dt.date | None
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Period:
    first: dt.date | None
    last: dt.date | None


def narrowing(question: str, topics: Iterable[str], now: dt.date) -> Narrowing:
    """What `question`, asked on the day `now`, says about date and topic; `topics` are those that there are.

    Several phrases about time narrow together; where they exclude each other none of them counts.
    """
    first, last = None, None
    for period in _periods(question, now):
        first = max(filter(None, (first, period.first)), default=None)
        last = min(filter(None, (last, period.last)), default=None)
    if first and last and first > last:
        first, last = None, None
    return Narrowing(first, last, _topics(question, topics))


def _periods(question: str, now: dt.date) -> Iterator[_Period]:
    taken: list[tuple[int, int]] = []
    for pattern, meaning in _PHRASES:
        for match in pattern.finditer(question):
            start, end = match.span()
            if any(start < there_end and there_start < end for there_start, there_end in taken):
                continue
            taken.append((start, end))
            try:
                period = meaning(match, now)
            except (ValueError, OverflowError):  # the 31st of February, a thousand years ago
                continue
            yield period


def _date(text: str) -> _Period:
    """The days of a date as it is written: one, a month's or a year's. Raises ValueError for one that never was."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        day = dt.date.fromisoformat(text)
        return _Period(day, day)
    words = re.findall(r"[a-z]+|\d+", text.lower())
    numbers = [int(word) for word in words if word.isdigit()]
    year = numbers[-1]
    month = next((_MONTHS[word] for word in words if word in _MONTHS), 0)
    if not month:
        return _Period(dt.date(year, 1, 1), dt.date(year, 12, 31))
    if len(numbers) == 2:
        day = dt.date(year, month, numbers[0])
        return _Period(day, day)
    return _Period(dt.date(year, month, 1), dt.date(year, month, calendar.monthrange(year, month)[1]))


def _within(match: re.Match[str], _: dt.date) -> _Period:
    return _date(match["date"])


def _from(match: re.Match[str], _: dt.date) -> _Period:
    return _Period(_date(match["date"]).first, None)


def _after(match: re.Match[str], _: dt.date) -> _Period:
    last = _date(match["date"]).last
    assert last is not None
    return _Period(last + dt.timedelta(days=1), None)


def _before(match: re.Match[str], _: dt.date) -> _Period:
    first = _date(match["date"]).first
    assert first is not None
    return _Period(None, first - dt.timedelta(days=1))


def _until(match: re.Match[str], _: dt.date) -> _Period:
    return _Period(None, _date(match["date"]).last)


def _between(match: re.Match[str], _: dt.date) -> _Period:
    first, last = _date(match["date"]).first, _date(match["end"]).last
    if first and last and first > last:
        raise ValueError("ends before it begins")
    return _Period(first, last)


def _day(match: re.Match[str], now: dt.date) -> _Period:
    day = now - dt.timedelta(days=match["day"].lower() == "yesterday")
    return _Period(day, day)


def _calendar(match: re.Match[str], now: dt.date) -> _Period:
    """ "Last week", "this month": as the calendar cuts them, weeks from Monday."""
    back = match["which"].lower() in ("last", "previous")
    unit = match["unit"].lower()
    if unit == "week":
        monday = now - dt.timedelta(days=now.weekday() + 7 * back)
        return _Period(monday, monday + dt.timedelta(days=6))
    if unit == "year":
        return _date(str(now.year - back))
    first = _months_before(now.replace(day=1), int(back))
    return _Period(first, first.replace(day=calendar.monthrange(first.year, first.month)[1]))


def _recent(match: re.Match[str], now: dt.date) -> _Period:
    """ "The last three months": counted back from today."""
    count = _NUMBERS.get(match["n"].lower()) or int(match["n"])
    unit = match["unit"].lower()
    if unit in _UNITS:
        return _Period(now - dt.timedelta(days=count * _UNITS[unit]), now)
    return _Period(_months_before(now, count * (12 if unit == "year" else 1)), now)


def _months_before(day: dt.date, months: int) -> dt.date:
    """The same day so many months earlier, or the last one that month has."""
    years, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return dt.date(years, month + 1, min(day.day, calendar.monthrange(years, month + 1)[1]))


def _phrase(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){text}(?![\w-])", re.IGNORECASE)


_PHRASES: list[tuple[re.Pattern[str], Callable[[re.Match[str], dt.date], _Period]]] = [
    (
        _phrase(rf"(?:between|from)\s+{_THE}(?P<date>{_DATE})\s+(?:and|to|until|till)\s+{_THE}(?P<end>{_DATE})"),
        _between,
    ),
    (_phrase(rf"(?:since|from)\s+{_THE}(?P<date>{_DATE})(?:\s+on(?:wards)?)?"), _from),
    (_phrase(rf"after\s+{_THE}(?P<date>{_DATE})"), _after),
    (_phrase(rf"before\s+{_THE}(?P<date>{_DATE})"), _before),
    (_phrase(rf"(?:until|till|up\s+to)\s+{_THE}(?P<date>{_DATE})"), _until),
    (_phrase(rf"(?:in|on|during|of)\s+{_THE}(?P<date>{_DATE})"), _within),
    (
        _phrase(
            r"(?:(?:in|over|during|within|from)\s+)?(?:the\s+)?(?:last|past)\s+"
            rf"(?P<n>\d{{1,4}}|{'|'.join(_NUMBERS)})\s+(?P<unit>day|week|month|year)s?"
        ),
        _recent,
    ),
    (_phrase(r"(?:(?:in|during|from|of)\s+)?(?P<which>last|previous|this)\s+(?P<unit>week|month|year)"), _calendar),
    (_phrase(r"(?P<day>yesterday|today)"), _day),
]
"""The longer ones first: "from 2015 to 2016" is not "from 2015"."""


def _topics(question: str, topics: Iterable[str]) -> tuple[str, ...]:
    known = {topic.lower(): topic for topic in topics if topic.strip()}
    if not known:
        return ()
    name = "|".join(re.escape(topic) for topic in sorted(known, key=len, reverse=True))
    behind = _phrase(
        rf"(?:about|on|in|under|from)\s+(?:the\s+)?(?:topics?\s+)?(?P<names>(?:{name})(?:\s*(?:,|and|or|&)\s*(?:{name}))*)"
    )
    before = _phrase(rf"(?P<names>{name})(?=\s+(?:news|articles?|reports?|stories|story)\b)")
    found: dict[str, None] = {}
    for pattern in (behind, before):
        for match in pattern.finditer(question):
            for one in re.finditer(rf"(?<![\w-])(?:{name})(?![\w-])", match["names"], re.IGNORECASE):
                # A pattern without regard to case takes letters like \u017f and \u0130 too, which lower() does not.
                topic = known.get(one.group().lower())
                if topic is not None:
                    found[topic] = None
    return tuple(found)
