"""Text to the terms that BM25 counts, the same for passages and questions. Pure.

Milvus' analyzers differ from server to server (Milvus Lite has neither stemming nor a list of stop words, and no
tokenizer for Korean), so the terms are made here, and Milvus only splits them at spaces: what was measured on one
server is what another does (docs/decisions/0010-hybrid-search.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache

from nltk.stem.snowball import EnglishStemmer, RussianStemmer

REVISION = 1
"""Part of the manifest: one more whenever the same text gives other terms, since the terms are stored."""


class Language(StrEnum):
    """Which words mean nothing and how words are inflected. NONE: words as they are, for languages not listed.

    Han, kana and Hangul are cut into overlapping pairs of characters whatever the language is, as Lucene's CJKAnalyzer
    does: it needs no dictionary, and finds words inside compounds and before particles.
    """

    ENGLISH = "english"
    RUSSIAN = "russian"
    KOREAN = "korean"
    CHINESE = "chinese"
    NONE = "none"


# ruff: noqa: SIM905 -- a list of words is read as text
_STOP_WORDS = {
    Language.ENGLISH: frozenset(
        "a about after all also am an and any are as at be because been before being between both but by can could did "
        "do does doing during each for from had has have having he her here hers him his how i if in into is it its "
        "just me more most my no nor not of off on once only or other our out over own same she should so some such "
        "than that the their them then there these they this those through to too under until up very was we were what "
        "when where which while who whom whose why will with would you your".split()
    ),
    Language.RUSSIAN: frozenset(
        "а без более бы был была были было быть в вам вас весь во вот все всего всех вы где да даже для до его ее "
        "если есть еще же за здесь и из или им их к как какая какие каким каких какой каком какую какое когда кого "
        "которая которого которой которые который кто ли меня мне много может мой мы на над надо наш не него нее "
        "нет ни них но ну о об однако он она они оно от очень по под после потому почему при с сам себя сейчас "
        "сколько со так также такой там те тем то того тоже той только том ты у уже хотя чего чей чем через что "
        "чтобы чье чья эта эти это этот я".split()
    ),
}

_STEMMERS: dict[Language, Callable[[str], str]] = {
    Language.ENGLISH: EnglishStemmer().stem,
    Language.RUSSIAN: RussianStemmer().stem,
}

_POSSESSIVE = re.compile(r"['’]s\b")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
_PIECES = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")


def terms(text: str, language: Language) -> list[str]:
    """The terms of `text` in its order, repeated as often as they occur. None of them holds a space.

    Stop words are kept where there is nothing else, so that "who is it" still is a query.
    """
    # NFKC: full-width and composed forms of a letter are the same term.
    plain = _POSSESSIVE.sub("", unicodedata.normalize("NFKC", text).casefold()).replace("ё", "е")
    pieces: list[str] = _PIECES.findall(plain)
    stop = _STOP_WORDS.get(language, frozenset())
    kept = [piece for piece in pieces if piece not in stop] or pieces
    return [term for piece in kept for term in _terms_of(piece, language)]


@lru_cache(maxsize=65_536)
def _terms_of(piece: str, language: Language) -> tuple[str, ...]:
    """A run of CJK in pairs, or the stem of a word. Cached: a corpus has far fewer words than occurrences of them."""
    if re.match(f"[{_CJK}]", piece):
        return tuple(piece[i : i + 2] for i in range(len(piece) - 1)) or (piece,)
    stem = _STEMMERS.get(language)
    return (stem(piece) if stem is not None else piece,)


def coverage(question: list[str], passage: set[str]) -> float:
    """The share of the question's distinct terms that the passage has, 0 to 1."""
    wanted = set(question)
    return len(wanted & passage) / len(wanted) if wanted else 0.0
