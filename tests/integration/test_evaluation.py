"""The commands against real services with simulated models."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from openai import OpenAIError

from evaluation import ablation, answerability, answers, judging, retrieval
from evaluation.runs import load
from tests.support.beir import gzipped, write_sample
from tests.support.processes import Service

UNANSWERABLE = ["zxqv wvut?", "qqqq kkkk jjjj?"]
"""Of words that no article holds, so that the hash encoder finds nothing similar."""


@pytest.fixture
def arguments(simulated: Service, milvus_lite: Service, tmp_path: Path) -> list[str]:
    write_sample(tmp_path / "data" / "tiny", unanswerable=UNANSWERABLE)
    places = ["--model-service", simulated.url, "--milvus", milvus_lite.url, "--runs", str(tmp_path / "runs")]
    return ["--data", str(tmp_path / "data"), "--set", "tiny", *places]


def test_retrieval_is_measured_and_compared(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ("sparse", "sparse", "hybrid"):
        assert retrieval.main([*arguments, "--mode", mode]) == 0, capsys.readouterr().err
    first, again, hybrid = map(load, sorted((tmp_path / "runs").iterdir()))
    assert len(first.figures) == first.setup["questions"] == 40
    assert first.facts["modes_done"] == ["sparse"]
    # Measured: top-3 0.900. BM25 needs no model, so the simulated ones do not matter.
    assert first.means["top-3"] >= 0.875
    assert again.figures == first.figures
    assert hybrid.figures != first.figures
    assert hybrid.setup["mode"] == "hybrid"
    said = capsys.readouterr().out
    assert "ndcg@10 +0.000 [+0.000, +0.000] p 1.0000 (not significant) against tiny sparse of" in said
    pages = [(run.folder(tmp_path / "runs") / "report.html").read_text() for run in (first, again, hybrid)]
    assert ["Earlier runs" in page for page in pages] == [False, True, True]


def test_expansions_are_measured_in_one_go(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--expand={expand}" for expand in ("off", "multi_query", "hyde")]
    assert retrieval.main([*arguments, *options, "--limit-queries", "5"]) == 0, capsys.readouterr().err
    done = [load(folder) for folder in sorted((tmp_path / "runs").iterdir())]
    assert [run.setup["expand"] for run in done] == ["off", "multi_query", "hyde"]
    assert ["expand_seconds_median" in run.facts for run in done] == [False, True, True]
    assert all(("expansion" in row) == (run is not done[0]) for run in done for row in run.found.values())
    said = capsys.readouterr().out
    assert "tiny hybrid + hyde" in said
    assert "against tiny hybrid + multi_query of" in said


def test_answers_are_measured(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--engine",
        "simulated",
        "--mode",
        "dense",
        "--min-score",
        "0.2",
        "--judge",
        "lexical",
        "--judge",
        "served",
    ]
    assert answers.main([*arguments, *options]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    run = load(folder)
    assert len(run.figures) == 42
    # The simulated generator knows nothing, but the gateway itself refuses where it finds nothing similar.
    assert run.means["refused_unanswerable"] == 1
    assert run.means["refused_answerable"] < 0.5
    assert run.means["source_recall"] > 0.5
    assert run.means["exact_match"] == 0
    assert 0 <= run.means["faithfulness, lexical"] <= 1
    # The simulated generator says hexadecimal numbers, of which some are grades.
    assert 0 < len(run.column("faithfulness, served")) < len(run.column("faithfulness, lexical"))
    assert sorted(id for id in run.figures if "refused_unanswerable" in run.figures[id]) == ["un0", "un1"]
    assert "refused_unanswerable" in (folder / "report.html").read_text()


def test_what_a_threshold_refuses_is_measured(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answerability.main([*arguments, "--mode", "dense"]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    run = load(folder)
    assert (len(run.column("similarity_answerable")), len(run.column("similarity_unanswerable"))) == (40, 2)
    assert run.facts["auc"] > 0.9
    assert "the curve of refusals" in (folder / "report.html").read_text()
    assert answerability.main([*arguments[:2], "--set", "sample", *arguments[4:]]) == 1
    assert "sample lacks answerable or unanswerable questions; --foreign NAME" in capsys.readouterr().err


def test_switches_are_measured_in_turns(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["min_score=1", "duplicates", "parents=200", "mode=sparse"]
    options = [option for name in wanted for option in ("--switch", name)]
    timing = ["--timed-queries", "4", "--rounds", "1", "--limit-queries", "12", "--at-once", "1", "4"]
    assert ablation.main([*arguments, "--mode", "dense", *options, *timing]) == 0, capsys.readouterr().err
    runs = {(run.setup["asks"], run.setup["switch"]): run for run in map(load, sorted((tmp_path / "runs").iterdir()))}
    ranking = {switch: run for (asks, switch), run in runs.items() if asks == "ranking"}
    assert set(ranking) == {"off", "nothing", "min_score=1", "duplicates", "mode=sparse"}
    assert {switch for asks, switch in runs if asks == "reading"} == {"off", "nothing", "parents=200"}
    # No passage is a question word for word, so a threshold of 1 leaves nothing.
    assert ranking["min_score=1"].means["ndcg@10"] == 0 < ranking["off"].means["ndcg@10"]
    assert ranking["nothing"].column("ndcg@10") == ranking["off"].column("ndcg@10")
    assert len(ranking["off"].column("seconds, 4 at once")) == 4
    longer = runs["reading", "parents=200"].means["prompt_tokens"]
    assert longer >= runs["reading", "off"].means["prompt_tokens"] > 0
    folder = ranking["off"].folder(tmp_path / "runs")
    assert (folder / "ablation.md").read_text().count("\n") == 7
    assert "difference" in (ranking["duplicates"].folder(tmp_path / "runs") / "report.html").read_text()
    assert ablation.main([*arguments, "--switch", "hyde"]) == 1
    assert "error: hyde asks the model" in capsys.readouterr().err


async def test_the_served_llm_is_a_judge_of_what_it_can_read(gateway: Service) -> None:
    options = argparse.Namespace(judges=["served", "lexical"], judge_model="", judge_key="")
    async with judging.judges_of(options, gateway.url) as judges:
        assert list(judges) == ["served", "lexical"]
        # The simulated LLM has no opinion but always the same one, and 4,096 words of context.
        same = [await judges["served"].faithfulness("Who?", ["A comet."], "Oil fell.") for _ in range(2)]
        assert same[0] == same[1]
        assert await judges["served"].faithfulness("Who?", ["comet " * 5000], "Oil fell.") is None
    options.judges = ["http://127.0.0.1:1/v1"]
    async with judging.judges_of(options, gateway.url) as judges:
        with pytest.raises(OpenAIError):
            await judges["http://127.0.0.1:1/v1"].faithfulness("Who?", [], "Oil fell.")


def test_a_judge_that_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rated = {"r1": {"value": "4"}, "r2": {"value": "2"}}
    turn = {
        "_id": "t",
        "messages": [{"role": "user", "content": "Seen?"}],
        "context_ids": ["d1"],
        "responses": [{"model": "m", "response": "A comet.", "annotations": {"faithfulness": rated}}],
    }
    gzipped(tmp_path / "mtrag_un" / "corpus.jsonl.gz", [{"_id": "d1", "title": "", "text": "A comet was seen."}])
    gzipped(tmp_path / "mtrag_human_eval" / "responses.dev.jsonl.gz", [turn])
    arguments = ["--data", str(tmp_path), "--judge", "served", "--gateway", "http://127.0.0.1:1"]
    assert judging.main(arguments) == 1
    assert "error: GET http://127.0.0.1:1/v1/models" in capsys.readouterr().err
    assert judging.main(["--data", str(tmp_path)]) == 0
    assert "lexical: 1 answers (0 without a rating)" in capsys.readouterr().out


@pytest.mark.parametrize("command", [retrieval, answers, answerability, ablation])
def test_a_running_gateway_that_is_not_there_is_said_so(
    command: object, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data_and_set = arguments[:4]
    assert command.main([*data_and_set, "--gateway", "http://127.0.0.1:1"]) == 1  # type: ignore[attr-defined]
    assert "error: POST http://127.0.0.1:1/" in capsys.readouterr().err
