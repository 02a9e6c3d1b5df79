"""Mending of text as it comes out of news exports. Pure functions; every mend is named, so that it can be counted."""

from __future__ import annotations

import datetime as dt
import html
import re

_MARKUP_NAMES = "strong|b|i|em|p|br|div|span|a|u|h[1-6]|ul|ol|li|table|tr|td|img|link|meta|blockquote|font"
_HIDDEN = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_MARKUP_NAMES})\b[^<>]*>", re.IGNORECASE)
_BROKEN_START = re.compile(rf"^\s*/?(?:{_MARKUP_NAMES})\s*/?>", re.IGNORECASE)
_BROKEN_END = re.compile(rf"</?(?:{_MARKUP_NAMES})?\s*$", re.IGNORECASE)
_C1 = re.compile(r"[\x80-\x9f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_NO_BREAK = re.compile(r"[\xa0\u2007\u202f]")
_ACCENT = re.compile(r"´")
_GLUED = re.compile(r"(?<=[a-z0-9]{2})\.(?=[A-Z][a-z])")
_SPACES = re.compile(r"[^\S\n]+")
_NEWLINES = re.compile(r" ?\n[ \n]*")


def clean_text(raw: str) -> tuple[str, list[str]]:
    """`raw` as readable text with one newline between paragraphs, and the names of the mends it took.

    Mending can lay bare more damage ("&amp;quot;", "<\\0b>"), so it is repeated until nothing is left to mend.
    """
    mends: dict[str, None] = {}
    text, before = raw, None
    while text != before:
        before = text
        text = _mend_once(text, mends)
    return text, list(mends)


def _mend_once(raw: str, mends: dict[str, None]) -> str:
    def mend(name: str, before: str, after: str) -> str:
        if before != after:
            mends[name] = None
        return after

    unix = raw.replace("\r\n", "\n").replace("\r", "\n")
    text = mend("HTML entities", unix, html.unescape(unix))
    text = mend("control characters of a wrong decoding", text, _C1.sub(_as_cp1252, text))
    text = mend("control characters", text, _CONTROL.sub("", text))
    text = mend("scripts and styles", text, _HIDDEN.sub(" ", text))
    text = mend("tags", text, _TAG.sub(" ", text))
    text = mend("broken tags", text, _BROKEN_END.sub("", _BROKEN_START.sub("", text)))
    text = mend("non-breaking spaces", text, _NO_BREAK.sub(" ", text))
    text = mend("accents used as apostrophes", text, _ACCENT.sub("'", text))
    text = mend("sentences glued together", text, _GLUED.sub(". ", text))
    return _NEWLINES.sub("\n", _SPACES.sub(" ", text)).strip()


def clean_line(raw: str) -> tuple[str, list[str]]:
    """As `clean_text`, on one line; for headings and topics."""
    text, mends = clean_text(raw)
    return text.replace("\n", " "), mends


def clean_date(raw: str) -> tuple[str, bool]:
    """An ISO date, and whether `raw` was understood; where it was not, it is kept as it is.

    Reads ISO 8601 and the M/D/YYYY of the news data set.
    """
    text = raw.strip()
    if not text:
        return "", True
    try:
        return dt.date.fromisoformat(text[:10]).isoformat(), True
    except ValueError:
        pass
    match = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{4})", text)
    if match:
        month, day, year = map(int, match.groups())
        try:
            return dt.date(year, month, day).isoformat(), True
        except ValueError:
            pass
    return text, False


def cut_bytes(text: str, limit: int) -> str:
    """The longest beginning of `text` that is at most `limit` bytes of UTF-8, which is how Milvus counts."""
    return text.encode()[:limit].decode(errors="ignore")


def _as_cp1252(match: re.Match[str]) -> str:
    # A C1 control character in running text is a cp1252 byte that somebody once read as latin-1.
    return bytes([ord(match.group())]).decode("cp1252", errors="ignore")
