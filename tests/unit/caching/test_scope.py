"""Whose answer may be whose: requests that differ in anything that shapes an answer share none."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.asking import AskRequest
from app.caching.scope import Defaults, Scope, normalised, scope_of
from app.quota import ApiKey, Quota
from app.ranking.options import RankingOptions
from app.terms import CacheUse, Terms
from contracts.types import Filters, Sampling
from tests.unit.caching.support import CARD

DAY = dt.date(2026, 1, 19)
DEFAULTS = Defaults("hybrid", RankingOptions(mmr_lambda=0.5), self_query=False)
USERS = {name: Quota(name, ApiKey(key="a-secret-key")) for name in ("ann", "bob")}

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "user": st.sampled_from([None, "ann", "bob"]),
    "version": st.sampled_from(["v1", "v2"]),
    "encoder": st.sampled_from(["e1", "e2"]),
    "generator": st.sampled_from(["g1", "g2"]),
    "reranker": st.sampled_from(["", "r1"]),
    "topics": st.sampled_from([(), ("a",), ("b",), ("a", "b")]),
    "top_k": st.integers(1, 3),
    "max_tokens": st.integers(1, 3),
    "stop": st.sampled_from([(), ("x",)]),
    "mode": st.sampled_from(["hybrid", "dense", "sparse"]),
    "filters": st.sampled_from([Filters(), Filters(date_from="2025-01-01"), Filters(authors=("a",))]),
    "rerank": st.sampled_from([None, True, False]),
    "ranking": st.sampled_from([RankingOptions(mmr_lambda=1), RankingOptions(mmr_lambda=None), RankingOptions()]),
    "self_query": st.booleans(),
}
"""Each with values of which no two mean the same."""


def scope(fields: dict[str, Any], today: dt.date = DAY) -> Scope:
    given = dict(fields)
    user = given.pop("user")
    card = msgspec.structs.replace(CARD, **{name: given.pop(name) for name in ("encoder", "generator", "reranker")})
    version = given.pop("version")
    sampling = Sampling(max_tokens=given.pop("max_tokens"), stop=given.pop("stop"))
    terms = Terms(quota=USERS.get(user))
    return scope_of(
        AskRequest("id", "a question", sampling=sampling, terms=terms, **given), DEFAULTS, version, card, today
    )


@given(st.fixed_dictionaries(FIELDS), st.sampled_from(sorted(FIELDS)), st.data())
def test_two_that_differ_in_any_field_never_share(one: dict[str, Any], field: str, data: st.DataObject) -> None:
    other = {**one, field: data.draw(FIELDS[field].filter(lambda value: not same(field, value, one[field])))}
    assert scope(one) != scope(other)
    assert scope(one) == scope(dict(one))
    assert hash(scope(one)) == hash(scope(dict(one)))


def same(field: str, value: Any, other: Any) -> bool:
    """An empty `ranking` and an explicit null are equal to pydantic."""
    if field == "ranking":
        return bool(DEFAULTS.ranking.overridden(value) == DEFAULTS.ranking.overridden(other))
    return bool(value == other)


def test_an_explicit_null_is_not_no_word() -> None:
    fields = {**FIRST, "ranking": RankingOptions()}
    assert scope(fields) != scope({**fields, "ranking": RankingOptions(mmr_lambda=None)})
    assert scope(fields) == scope({**fields, "ranking": None})
    assert scope(fields) == scope({**fields, "ranking": RankingOptions(mmr_lambda=0.5)})


FIRST: dict[str, Any] = {
    "user": None, "version": "v1", "encoder": "e1", "generator": "g1", "reranker": "", "topics": ("a",), "top_k": 1,
    "max_tokens": 1, "stop": (), "mode": "hybrid", "filters": Filters(), "rerank": None, "ranking": None,
    "self_query": None,
}  # fmt: skip


def test_every_field_of_a_request_counts_but_those_that_only_identify_it() -> None:
    """A field that requests are given later is one of them until it is named here."""
    identify = {"request_id", "question", "terms"}
    base = AskRequest("id", "a question", (), 5, Sampling())
    made = scope_of(base, DEFAULTS, "v1", CARD, DAY).asked
    for field in dataclasses.fields(AskRequest):
        if field.name not in identify:
            changed = dataclasses.replace(made, **{field.name: "something else"})
            assert changed != made, field.name


def test_who_asks_when_and_with_which_words_does_not_count() -> None:
    base = AskRequest("id", "a question", ("a", "b"), 5, Sampling(), Terms(1.0, 2.0))
    other = AskRequest("di", "another", ("b", "a", "b"), 5, Sampling(), Terms(3.0, None, None, CacheUse(False, True)))
    assert scope_of(base, DEFAULTS, "v1", CARD, DAY) == scope_of(other, DEFAULTS, "v1", CARD, DAY)


@pytest.mark.parametrize(
    ("fields", "counts"),
    [({}, False), ({"self_query": True}, True), ({"ranking": RankingOptions(half_life_days=30)}, True)],
)
def test_the_day_counts_where_an_answer_depends_on_it(fields: dict[str, Any], counts: bool) -> None:
    today, tomorrow = (scope({**FIRST, **fields}, day) for day in (DAY, DAY + dt.timedelta(days=1)))
    assert (today != tomorrow) is counts


def test_the_same_words_are_the_same_however_they_are_spaced_and_composed() -> None:
    assert normalised("  Who\twas\n Zoe\u0308? ") == "Who was Zo\u00eb?"
    assert normalised("US") != normalised("us")
    assert normalised("x\u00b2?") != normalised("x2?")
