"""Load tests: how many users there are when, and what they ask."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locust_testing.questions import NO_TOPIC_SHARE, Questions, sample_questions
from locust_testing.shapes import SHAPES, STEPS

SECONDS = 100.0


def course(name: str, most: int = 20, seconds: float = SECONDS) -> list[int]:
    """Users at each second."""
    shape = SHAPES[name]
    return [users for second in range(int(seconds)) if (users := shape.at(second, most, seconds)) is not None]


@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 500), st.floats(1, 1e5), st.floats(0, 0.9999))
def test_every_shape_keeps_within_its_users_and_its_time(name: str, most: int, seconds: float, share: float) -> None:
    users = SHAPES[name].at(share * seconds, most, seconds)
    assert users is not None
    assert 1 <= users <= most
    assert SHAPES[name].at(seconds, most, seconds) is None
    assert SHAPES[name].at(seconds * 10, most, seconds) is None


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_shape_gets_to_all_users_and_has_an_end_of_its_own(name: str) -> None:
    assert max(course(name)) == 20
    assert 0 < SHAPES[name].seconds < 3600


def test_steady_and_soak_climb_once_and_stay() -> None:
    for name in ("steady", "soak"):
        users = course(name)
        assert users == sorted(users)
        assert users.count(20) >= 0.85 * SECONDS


def test_step_has_steps_of_one_size_and_one_length() -> None:
    assert sorted(Counter(course("step")).items()) == [(20 // STEPS * (i + 1), SECONDS // STEPS) for i in range(STEPS)]


def test_a_spike_comes_out_of_the_quiet_and_goes_back_to_it() -> None:
    users = course("spike")
    assert users[0] == users[-1] == 4
    assert Counter(users) == {4: 80, 20: 20}


TOPICS = [("sports", 40), ("business", 70), ("art", 40), ("science", 1)]


def drawn(questions: Questions, count: int = 20_000) -> Counter[str | None]:
    rng = random.Random(1)
    return Counter(questions.draw(rng).topic for _ in range(count))


def test_topics_are_drawn_by_zipfs_law_the_largest_first() -> None:
    questions = Questions(TOPICS, {}, skew=1.0)
    assert questions.topics == ["business", "art", "sports", "science"]
    counts = drawn(questions)
    assert counts.pop(None) / 20_000 == pytest.approx(NO_TOPIC_SHARE, abs=0.02)
    total = counts.total()
    for rank, topic in enumerate(questions.topics, 1):
        assert counts[topic] / total == pytest.approx(1 / rank / (1 + 1 / 2 + 1 / 3 + 1 / 4), abs=0.02)


def test_without_skew_all_topics_are_alike_and_with_much_one_gets_all() -> None:
    even, steep = drawn(Questions(TOPICS, {}, skew=0)), drawn(Questions(TOPICS, {}, skew=20))
    assert even["science"] == pytest.approx(even["business"], rel=0.1)
    assert steep["business"] > 15_900


def test_a_topic_of_the_sample_is_asked_the_samples_questions_and_another_gets_general_ones() -> None:
    sample = sample_questions()
    assert sum(map(len, sample.values())) == 40
    rng = random.Random(1)
    questions = Questions([("business", 10), ("gardening", 10)], sample)
    for _ in range(200):
        question = questions.draw(rng)
        if question.topic == "business":
            assert question.text in sample["business"]
        elif question.topic == "gardening":
            assert "gardening" in question.text


def test_a_server_without_topics_and_a_copy_without_the_sample_are_asked_something() -> None:
    rng = random.Random(1)
    assert Questions([], sample_questions()).draw(rng).topic is None
    assert Questions([], {}).draw(rng).text
