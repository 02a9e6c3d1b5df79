"""Budgets of API keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import SecretStr, ValidationError

from app.errors import QuotaExceeded, Unauthorized
from app.quota import ApiKey, Keyring, Quota

KEY = "a-secret-key"


def quota(requests: int | None = None, tokens: int | None = None, clock: Callable[[], float] = lambda: 0.0) -> Quota:
    """Nothing flows in, unless by another `clock`."""
    key = ApiKey(key=SecretStr(KEY), requests_per_minute=requests, tokens_per_minute=tokens)
    return Quota("team", key, clock)


def refusal_of(quota: Quota, tokens: int) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as refusal:
        quota.reserve_tokens(tokens)
    return refusal.value


def test_a_minutes_requests_may_come_at_once_and_no_more() -> None:
    team = quota(requests=3)
    for _ in range(3):
        team.use_request()
    with pytest.raises(QuotaExceeded, match="'team' has made all its requests") as refusal:
        team.use_request()
    assert refusal.value.status == 429
    assert refusal.value.retry_after_seconds == pytest.approx(20)  # one in three a minute
    assert refusal.value.detail.endswith("There is room again in 20 s.")


def test_no_limit_means_no_limit() -> None:
    unlimited = quota()
    for _ in range(100):
        unlimited.use_request()
        unlimited.reserve_tokens(10**9)


def test_requests_and_tokens_are_two_budgets() -> None:
    team = quota(requests=1, tokens=100)
    team.use_request()
    team.reserve_tokens(100)
    assert "tokens of this minute" in refusal_of(team, 1).detail


def test_a_refused_reservation_takes_nothing() -> None:
    team = quota(tokens=100)
    team.reserve_tokens(60)
    refusal_of(team, 60)
    team.reserve_tokens(40)
    refusal_of(team, 10)


def test_what_was_reserved_and_not_used_comes_back_once() -> None:
    team = quota(tokens=100)
    reservation = team.reserve_tokens(90)
    reservation.settle(30)
    reservation.settle(0)
    reservation.settle(0)
    team.reserve_tokens(70)
    refusal_of(team, 10)


def test_what_was_used_beyond_the_reservation_is_charged_after_all() -> None:
    team = quota(tokens=100)
    team.reserve_tokens(10).settle(160)
    # 60 in debt, and 10 wanted: 70 at 100 a minute.
    assert refusal_of(team, 10).retry_after_seconds == pytest.approx(42)


def test_use_without_a_reservation_is_charged() -> None:
    team = quota(tokens=100)
    team.use_tokens(95)
    refusal_of(team, 10)


def test_a_prompt_that_costs_more_than_a_minute_is_let_in_when_nothing_was_used_and_paid_for_afterwards() -> None:
    team = quota(tokens=100)
    team.reserve_tokens(250)
    assert refusal_of(team, 1).retry_after_seconds == pytest.approx(90.6)


def test_giving_back_never_saves_up_for_more_than_a_minute() -> None:
    team = quota(tokens=100)
    team.reserve_tokens(100).settle(-1000)
    team.reserve_tokens(100)
    refusal_of(team, 10)


def test_what_was_used_flows_in_again_steadily() -> None:
    now = 100.0
    team = quota(tokens=60, clock=lambda: now)
    team.reserve_tokens(60)
    now += 10
    assert refusal_of(team, 11).retry_after_seconds == pytest.approx(1)
    team.reserve_tokens(10)
    now += 3600
    team.reserve_tokens(60)
    refusal_of(team, 1)


def test_without_any_key_everybody_is_let_in() -> None:
    assert Keyring({}).quota_of(b"") is None
    assert Keyring({}).quota_of(b"Bearer whatever") is None


def keyring() -> Keyring:
    return Keyring({"one": ApiKey(key=SecretStr("key-of-one")), "two": ApiKey(key=SecretStr("key-of-two-Ä"))})


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Bearer key-of-one", "one"),
        ("bearer key-of-one", "one"),
        ("Bearer  key-of-one ", "one"),
        ("Bearer key-of-two-Ä", "two"),
    ],
)
def test_a_key_finds_its_quota(header: str, name: str) -> None:
    found = keyring().quota_of(header.encode())
    assert found is not None
    assert found.name == name


def test_a_key_finds_the_same_quota_each_time() -> None:
    keys = keyring()
    assert keys.quota_of(b"Bearer key-of-one") is keys.quota_of(b"Bearer key-of-one")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"key-of-one",
        b"Basic key-of-one",
        b"Bearer key-of-on",
        b"Bearer key-of-onee",
        b"\xff",
    ],
)
def test_any_other_header_is_refused_in_the_same_words(header: bytes) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer KEY") as refusal:
        keyring().quota_of(header)
    assert refusal.value.status == 401


@pytest.mark.parametrize(
    "entry",
    [
        {"key": "short"},
        {"key": KEY, "requests_per_minute": 0},
        {"key": KEY, "tokens_per_minute": -1},
        {"key": KEY, "requests_per_second": 1},
        {},
    ],
)
def test_a_key_that_makes_no_sense_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ApiKey.model_validate(entry)


def test_a_key_is_not_shown() -> None:
    assert KEY not in repr(ApiKey(key=SecretStr(KEY)))
