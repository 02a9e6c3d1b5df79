"""Mending of text out of news exports."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from setup_milvus.cleaning import clean_date, clean_line, clean_text, cut_bytes

UNWANTED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\xa0\u2007\u202f\ufeff]")
"""C0 controls but for the newline, DEL, C1 controls, spaces that do not break, byte order marks."""

WORDS = st.text(st.characters(categories=["Ll", "Lu", "Nd"], include_characters="éß€“”’–—"), min_size=1, max_size=8)
MENDABLE = st.sampled_from(
    [
        "&amp;",
        "&quot;",
        "&#39;",
        "&nbsp;",
        "&#146;",
        "<br/>",
        "<p class='lead'>",
        "</strong>",
        "<script>track()</script>",
        "\x91",
        "\x97",
        "\x81",
        "\xa0",
        "\u202f",
        "\ufeff",
        "\x00",
        "´",
        "end.Start",
        "\r\n",
        "\n\n",
        "\t",
        "5 < 6",
    ]
)
NEWS = st.builds(
    str.__add__, st.sampled_from(["", "strong>", " /p>"]), st.lists(WORDS | MENDABLE, max_size=30).map(" ".join)
)
"""Text as exports have it: words, with damage between them."""


@settings(deadline=None)
@given(NEWS)
@example("")
@example("one\r\n\r\n  two&nbsp;&nbsp;three\x85")
def test_cleaning_clean_news_changes_nothing(raw: str) -> None:
    clean, _ = clean_text(raw)
    assert clean_text(clean) == (clean, [])


@settings(deadline=None)
@given(WORDS, st.lists(WORDS, max_size=10))
def test_text_that_needs_no_mending_comes_back_as_it_is(first: str, others: list[str]) -> None:
    text = " ".join([first, *others])
    assert clean_text(text) == (text, [])


@settings(deadline=None)
@given(st.text() | NEWS | st.text(st.characters(max_codepoint=0x2FF)))
@example("&#128;&#x81;&#160;&nbsp;")
def test_no_control_character_and_no_odd_space_is_left(raw: str) -> None:
    assert UNWANTED.findall(clean_text(raw)[0]) == []


@settings(deadline=None)
@given(st.text() | NEWS)
def test_space_is_tidy(raw: str) -> None:
    text, _ = clean_text(raw)
    assert text == text.strip()
    assert not re.search(r"  | \n|\n |\n\n", text)


@settings(deadline=None)
@given(st.text() | NEWS)
def test_a_line_is_one_line(raw: str) -> None:
    line, _ = clean_line(raw)
    assert line.split("\n") == [clean_text(raw)[0].replace("\n", " ")]


@pytest.mark.parametrize(
    ("raw", "clean", "mend"),
    [
        ("Fish &amp; chips", "Fish & chips", "HTML entities"),
        ("It\x92s \x93new\x94 \x97 now", "It’s “new” — now", "control characters of a wrong decoding"),
        ("a<script>x = '<p>'</script>b", "a b", "scripts and styles"),
        ("<style>p {color: red}", "", "scripts and styles"),
        ("<p>Rain</p><P CLASS='x'>Sun</P>", "Rain Sun", "tags"),
        ("strong>KARACHI: Rain</strong", "KARACHI: Rain", "broken tags"),
        ("Karachi\xa0airport", "Karachi airport", "non-breaking spaces"),
        ("country´s", "country's", "accents used as apostrophes"),
        ("\ufeffRa\x00in\x7f", "Rain", "control characters"),
        ("fell today.Then rose", "fell today. Then rose", "sentences glued together"),
    ],
)
def test_each_mend_is_made_and_named(raw: str, clean: str, mend: str) -> None:
    assert clean_text(raw) == (clean, [mend])


@pytest.mark.parametrize("text", ["3.5 per cent", "U.S.A.", "5 < 6 and 7 > 6", "a <b c", "www.dawn.com", "A.B", "AT&T"])
def test_what_only_looks_damaged_stays(text: str) -> None:
    assert clean_text(text) == (text, [])


def test_escaped_markup_is_markup() -> None:
    assert clean_text("&lt;b&gt;Rain&lt;/b&gt;") == ("Rain", ["HTML entities", "tags"])


def test_paragraphs_are_kept_apart_by_one_newline() -> None:
    assert clean_text("  one\ttwo \r\n \r\n three\rfour\n") == ("one two\nthree\nfour", [])


@pytest.mark.parametrize(
    ("raw", "date"),
    [
        ("2024-02-03", "2024-02-03"),
        (" 2024-02-03 ", "2024-02-03"),
        ("2024-02-03 00:00:00", "2024-02-03"),
        ("2024-02-03T23:30:00-05:00", "2024-02-03"),
        ("2/3/2024", "2024-02-03"),
        ("12/31/2015", "2015-12-31"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_dates_become_iso(raw: str, date: str) -> None:
    assert clean_date(raw) == (date, True)


@pytest.mark.parametrize("raw", ["13/2/2024", "2/30/2024", "Feb 3, 2024", "2024", "yesterday"])
def test_a_date_that_is_not_understood_stays_as_it_is_and_is_said(raw: str) -> None:
    assert clean_date(raw) == (raw, False)


@settings(deadline=None)
@given(st.dates())
def test_iso_and_american_dates_mean_the_same(date: object) -> None:
    iso = str(date)
    year, month, day = map(int, iso.split("-"))
    assert clean_date(iso) == clean_date(f"{month}/{day}/{year:04}") == (iso, True)


@settings(deadline=None)
@given(st.text(), st.integers(0, 40))
def test_cutting_by_bytes_keeps_the_longest_beginning_of_whole_characters(text: str, limit: int) -> None:
    cut = cut_bytes(text, limit)
    assert text.startswith(cut)
    assert len(cut.encode()) <= limit
    assert cut == text or len(text[: len(cut) + 1].encode()) > limit
