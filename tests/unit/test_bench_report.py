"""The benchmarks' results: ratios and goals, the file they are kept in, and the section made of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks import report, results
from benchmarks.machine import Machine
from benchmarks.measures import MEASURES
from benchmarks.results import Entry, Goal, Measured, Plot, Row, Series

MACHINE = Machine("Some Processor", 2, 24, "", "3.11.7", {"torch": "2.13.0"}, "abc123")


def entry(title: str, *rows: Row, quick: bool = False) -> Entry:
    plot = Plot("relay", "What it costs", "µs", [Series("Pharos", {"64": 3.0})])
    return Entry(title, "2026-11-21T12:00:00+00:00", MACHINE, quick, 1.5, Measured(list(rows), [plot]))


def test_a_ratio_says_how_many_times_as_good() -> None:
    assert Row("a", "tokens/s", 200, "higher", "peer", 100).ratio == pytest.approx(2)
    assert Row("a", "µs", 20, "lower", "peer", 500).ratio == pytest.approx(25)
    assert Row("a", "µs", 20, "lower").ratio is None


def test_goals_are_met_by_value_or_by_ratio() -> None:
    value, ratio = Goal("value", "at most", 40), Goal("ratio", "at least", 25)
    assert Row("a", "µs", 40, "lower", "floor", 10, value).met is True
    assert Row("a", "µs", 40.1, "lower", "floor", 10, value).met is False
    assert Row("a", "µs", 20, "lower", "peer", 499, ratio).met is False
    assert Row("a", "µs", 20, "lower", "peer", 500, ratio).met is True
    assert Row("a", "µs", 20, "lower", "peer", 500).met is None


def test_what_is_doubted_meets_no_goal() -> None:
    row = Row("a", "µs", 1, "lower", goal=Goal("value", "at most", 40), doubts=["the generator was late"])
    assert row.met is False
    assert "*invalid*: the generator was late" in report.rendered({"relay": entry("Relay", row)})


def test_the_table_is_made_from_the_file_alone(tmp_path: Path) -> None:
    row = Row(
        "64 streams", "µs", 12.345, "lower", "LiteLLM", 700.0, Goal("ratio", "at least", 25), {"app": 1.25}, note="Why."
    )
    file = tmp_path / "results.json"
    results.save({"relay": entry("Relaying", row)}, file)
    section = report.rendered(results.load(file))
    assert "| 64 streams | 12.3 µs | LiteLLM: 700 | 56.7 | ≥ 25x | met | app 1.25 |\n" in section
    assert "### Relaying\n" in section
    assert "Why." in section
    assert "![What it costs](benchmarks/relay.png)" in section
    assert "2 cores of Some Processor, 24 GiB, no GPU, Python 3.11.7, 2026-11-21 (torch 2.13.0)" in section


def test_quick_runs_say_so() -> None:
    assert "quick run" in report.rendered({"relay": entry("Relay", quick=True)})


def test_a_row_without_a_figure_says_why() -> None:
    row = Row("everything", "", None, "higher", note="no GPU in this run")
    assert "| everything | no GPU in this run |" in report.rendered({"gpu": entry("GPU", row)})


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = "# Benchmarks\n\nWritten by hand.\n"
    once = report.replaced(page, report.rendered({"relay": entry("First")}))
    twice = report.replaced(once + "\nAlso by hand.\n", report.rendered({"relay": entry("Second")}))
    assert twice.startswith(page)
    assert twice.endswith("Also by hand.\n")
    assert "First" not in twice
    assert "Second" in twice


def test_half_a_pair_of_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers is missing"):
        report.replaced(f"{report.BEGIN}\n", report.rendered({}))


def test_no_results_yet(tmp_path: Path) -> None:
    assert results.load(tmp_path / "nothing.json") == {}


def test_results_survive_the_file(tmp_path: Path) -> None:
    row = Row("a", "ms", 1.5, "lower", "peer", 3.0, Goal("value", "at most", 2), {"app": 0.5}, ["late"], "note")
    results.save({"latency": entry("Latency", row)}, tmp_path / "r.json")
    assert results.load(tmp_path / "r.json") == {"latency": entry("Latency", row)}


def test_every_measure_has_a_name_and_a_title() -> None:
    assert all(name == name.lower() and measure.title for name, measure in MEASURES.items())
    assert msgspec.json.encode(list(MEASURES))
