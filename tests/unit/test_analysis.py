"""Text to terms: what is the same, what is left out, in each language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analysis import Language, coverage, terms


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        (Language.ENGLISH, "The storms were coming", "A STORM comes"),
        (Language.ENGLISH, "Norvane's dairies", "norvane dairy"),
        (Language.ENGLISH, "Ｎｏｒｖａｎｅ ①", "norvane 1"),
        (Language.RUSSIAN, "В каких городах живёт Ёлкин?", "город живет елкин"),
        (Language.NONE, "Straße", "STRASSE"),
        (Language.KOREAN, "서울", "서울"),
    ],
)
def test_these_are_the_same_terms(language: Language, one: str, other: str) -> None:
    assert terms(one, language) == terms(other, language) != []


def test_chinese_and_korean_are_pairs_of_characters_in_every_language() -> None:
    for language in Language:
        assert terms("北京大学", language) == ["北京", "京大", "大学"]
        assert terms("水", language) == ["水"]
        assert terms("Seoul서울에서", language)[1:] == ["서울", "울에", "에서"]


def test_a_korean_word_is_found_before_its_particle() -> None:
    assert coverage(terms("서울", Language.KOREAN), set(terms("서울에서 살았다", Language.KOREAN))) == 1


def test_numbers_and_names_with_digits_are_terms() -> None:
    assert terms("In 2016, the A-320neo cost 3.5", Language.ENGLISH) == ["2016", "320neo", "cost", "3", "5"]


def test_stop_words_are_kept_where_there_is_nothing_else() -> None:
    assert terms("Who is the storm?", Language.ENGLISH) == ["storm"]
    assert terms("Who is it?", Language.ENGLISH) == ["who", "is", "it"]
    assert terms("who is it", Language.NONE) == ["who", "is", "it"]


def test_nothing_has_no_terms() -> None:
    for language in Language:
        assert terms(" ?! \x00", language) == []
    assert coverage([], {"a"}) == 0


@given(st.text(), st.sampled_from(Language))
def test_terms_survive_being_split_at_spaces(text: str, language: Language) -> None:
    made = terms(text, language)
    assert " ".join(made).split() == made


def test_coverage_counts_distinct_terms() -> None:
    assert coverage(["a", "b", "a"], {"a", "c"}) == 0.5
