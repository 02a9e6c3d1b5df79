"""The features of hits, and the regression that is fitted to them."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ranking.answerability import FEATURES, Calibration, CalibrationError, features, read_calibration
from contracts.types import Hit
from tests.unit.ranking.made import found, hit
from training.answerability import Asked, calibrated, out_of_fold, questions_of, report, shown, table


def test_features_of_a_question_that_is_answered() -> None:
    passages = [
        hit("a", 0.8, text="The Norman duke Rollo swore fealty. He was baptised in 911.").passage,
        hit("b", 0.5, text="Rain fell in Oslo.").passage,
    ]
    values = features("When did Rollo swear fealty, in 911?", passages)
    assert values["best_cosine"] == 0.8
    assert values["cosine_gap"] == pytest.approx(0.3)
    assert values["names_found"] == 1
    # when, rollo, swear, fealt, 911: two of them are not there ("swear" is not "swore").
    assert values["words_found"] == pytest.approx(3 / 5)
    assert values["words_in_one_sentence"] == pytest.approx(2 / 5)
    assert tuple(values) == FEATURES
    assert features("Who?", passages, 7.5)["bm25"] == 7.5


def test_a_name_that_is_nowhere_shows() -> None:
    passages = [hit("a", 0.8, text="The Norman duke Rollo swore fealty.").passage]
    assert features("Did Rollo meet Harald?", passages)["names_found"] == 0.5
    assert features("who was a duke?", passages)["names_found"] == 1


def test_nothing_found_has_no_features() -> None:
    assert set(features("Who is Rollo?", []).values()) == {0.0}


@settings(deadline=None)
@given(hits=found(), question=st.text(max_size=40))
def test_shares_are_shares(hits: list[Hit], question: str) -> None:
    values = features(question, [hit.passage for hit in hits])
    for name in ("words_found", "words_in_one_sentence", "names_found"):
        assert 0 <= values[name] <= 1
    assert values["words_in_one_sentence"] <= values["words_found"]
    assert values["cosine_gap"] >= 0


def questions(count: int) -> tuple[list[Asked], np.ndarray]:
    """Answerable ones have a higher first feature, with overlap; the second says nothing."""
    chance = np.random.default_rng(7)
    answerable = chance.random(count) < 0.5
    asked = [Asked(f"q{i}", f"set/{i % 6}", bool(yes)) for i, yes in enumerate(answerable)]
    return asked, np.column_stack([chance.normal(answerable * 2.0, 1), chance.normal(0, 3, count)])


def test_the_gateway_computes_what_was_fitted() -> None:
    asked, values = questions(400)
    calibration = calibrated(values, asked, ("one", "two"), "MiniLM", "hybrid")
    computed = np.array([calibration.probability({"one": a, "two": b}) for a, b in values])
    assert calibration.weights[0] > 5 * abs(calibration.weights[1])
    truth = np.array([question.answerable for question in asked])
    assert np.corrcoef(computed, out_of_fold(values, asked))[0, 1] > 0.99
    # At the threshold a tenth of the answerable ones is refused, by questions that the regression had not seen.
    assert np.mean(computed[truth] < calibration.threshold) == pytest.approx(0.1, abs=0.03)
    assert calibration.fitted_on == "400 questions of set, searched hybrid"


@settings(deadline=None)
@given(value=st.floats(-1e6, 1e6))
def test_a_probability_is_one_whatever_the_features(value: float) -> None:
    calibration = Calibration("e", ("one",), (0.5,), (0.1,), (3.0,), 0.2, 0.5, "")
    assert 0 <= calibration.probability({"one": value}) <= 1
    assert calibration.probability({}) == pytest.approx(1 / (1 + np.exp(-0.2)))


def test_the_curve_counts_each_kind_of_question() -> None:
    asked, values = questions(600)
    foreign = [Asked(f"f{i}", f"other/{i}", answerable=False, foreign=True) for i in range(100)]
    values = np.vstack([values, np.column_stack([np.full(100, -9.0), np.zeros(100)])])
    result = report(values, asked + foreign, ("one", "two"))
    assert result.questions["foreign"] == 100
    assert result.auc == pytest.approx(0.92, abs=0.04)  # two normal distributions two deviations apart: Φ(√2)
    assert result.auc_foreign == 1
    assert [point.foreign for point in result.curve] == [1.0] * len(result.curve)
    for name in ("threshold", "answerable", "unanswerable"):
        figures = [getattr(point, name) for point in result.curve]
        assert figures == sorted(figures)
    assert "foreign 1.000" in shown(result)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "answerability.json"
    calibration = Calibration("e", ("one",), (0.5,), (0.1,), (3.0,), 0.2, 0.5, "few")
    path.write_bytes(msgspec.json.encode(calibration))
    assert read_calibration(path) == calibration
    for broken in (
        b"{}",
        b"no",
        msgspec.json.encode(msgspec.structs.replace(calibration, means=())),
        msgspec.json.encode(msgspec.structs.replace(calibration, scales=(0.0,))),
    ):
        path.write_bytes(broken)
        with pytest.raises(CalibrationError, match="answerability"):
            read_calibration(path)
    with pytest.raises(CalibrationError):
        read_calibration(tmp_path / "none.json")


def test_questions_of_a_set_say_whether_they_can_be_answered(tmp_path: Path) -> None:
    rows = [
        {"_id": "1", "text": " Who? ", "metadata": {"article": "a", "is_impossible": False}},
        {"_id": "2", "text": "Why?", "metadata": {"article": "a", "is_impossible": True}},
    ]
    with gzip.open(tmp_path / "queries.dev.jsonl.gz", "wb") as file:
        file.write(b"\n".join(map(msgspec.json.encode, rows)))
    asked = questions_of(tmp_path)
    assert [(q.text, q.answerable, q.foreign) for q in asked] == [("Who?", True, False), ("Why?", False, False)]
    assert asked[0].group == asked[1].group
    assert [(q.answerable, q.foreign) for q in questions_of(tmp_path, foreign=True, limit=1)] == [(False, True)]
    (tmp_path / "queries.dev.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "1", "text": "Who?"}'))
    with pytest.raises(ValueError, match="is_impossible"):
        questions_of(tmp_path)
    with pytest.raises(ValueError, match="no queries"):
        questions_of(tmp_path / "none")


def test_a_table_has_a_row_a_question() -> None:
    assert table([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}], ("b", "a")).tolist() == [[2, 1], [4, 3]]
    assert table([], ("a", "b")).shape == (0, 2)
