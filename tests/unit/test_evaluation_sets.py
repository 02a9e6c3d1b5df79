"""Readers of sets, runs on disk, the page, and judges."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from contracts.types import ModelCard
from evaluation import ablation, answerability, answers, known_items, report, retrieval, runs
from evaluation.answers import asked
from evaluation.comparing import differing, line
from evaluation.configured import configured
from evaluation.gateway import FindingFailed, require_own
from evaluation.judging import (
    GRADES,
    LexicalJudge,
    Rated,
    agreement,
    grade_of,
    judges_of,
    rated_answers,
    score_of,
)
from evaluation.runs import Run, earlier, load, new_name, save
from evaluation.sets import SAMPLE_FOLDER, EvaluationSet, Question, SetError, open_set
from evaluation.stack import StackError, running
from setup_milvus.datasets import Document, Tally
from tests.support.beir import gzipped
from tests.support.processes import Service

CORPUS = [
    {"_id": "d1", "title": "Comet", "text": "A comet was seen.", "metadata": {}},
    {"_id": "d2", "title": "", "text": "Oil fell.", "metadata": {}},
    {"_id": "d3", "title": "Empty", "text": "", "metadata": {}},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    gzipped(tmp_path / "small" / "corpus.jsonl.gz", CORPUS)
    gzipped(
        tmp_path / "small" / "queries.dev.jsonl.gz",
        [
            {"_id": "q1", "text": "Who saw it?", "metadata": {"answers": ["Uirab", "Uirab"], "is_impossible": False}},
            {"_id": "q2", "text": "Who lost it?", "metadata": {"answers": [], "is_impossible": True}},
            {"_id": "q3", "text": "How much?", "metadata": {"answerability": "PARTIAL", "reference_answers": ["41"]}},
            {"_id": "q4", "text": "Judged 0", "metadata": {}},
            {
                "_id": "q5",
                "text": "And then?",
                "messages": [
                    {"role": "user", "content": "What fell?"},
                    {"role": "assistant", "content": "Oil."},
                    {"role": "user", "content": "And then?"},
                ],
                "metadata": {"answerability": "UNANSWERABLE"},
            },
        ],
    )
    (tmp_path / "small" / "qrels.dev.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq3\td2\t2\nq4\td1\t0\n"
    )
    return tmp_path


def test_a_set_in_beirs_layout(data: Path) -> None:
    small = open_set(data, "small")
    assert small.questions[0] == Question("q1", "Who saw it?", ("Uirab",), answerable=True)
    assert [question.answerable for question in small.questions] == [True, False, None, None, False]
    assert small.questions[2].answers == ("41",)
    assert small.judgements == {"q1": {"d1": 1, "d2": 0}, "q3": {"d2": 2}}
    assert [question.id for question in small.judged()] == ["q1", "q3"]
    assert [question.id for question in small.judged(1)] == ["q1"]


def test_documents_have_the_ids_that_ingestion_gives_them(data: Path) -> None:
    small = open_set(data, "small")
    ingested = {document.id: document for document in small.dataset().documents(Tally())}
    assert {ingested[own].title: key for own, key in small.keys().items()} == {"Comet": "d1", "": "d2"}


def test_a_conversation_by_its_last_turn_or_by_all(data: Path) -> None:
    assert open_set(data, "small").questions[4].text == "And then?"
    assert open_set(data, "small", turns="all").questions[4].text == "What fell?\nAnd then?"


def test_parts_of_a_set_in_several_languages(tmp_path: Path) -> None:
    folder = tmp_path / "many-tongued"
    for language in ("en", "ru"):
        gzipped(folder / f"corpus.{language}.jsonl.gz", [{"_id": "d", "title": "", "text": f"text in {language}"}])
        gzipped(folder / f"queries.{language}.dev.jsonl.gz", [{"_id": "q", "text": f"question in {language}"}])
    (folder / "qrels.dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")

    def texts(name: str) -> tuple[str, str]:
        chosen = open_set(tmp_path, name)
        (document,) = chosen.dataset().documents(Tally())
        return chosen.questions[0].text, document.text

    assert texts("many-tongued-ru") == ("question in ru", "text in ru")
    assert texts("many-tongued-ru-en") == ("question in ru", "text in en")
    with pytest.raises(SetError, match=r"corpus\.de\.jsonl\.gz: no such file"):
        open_set(tmp_path, "many-tongued-de")


def test_what_is_not_a_set_is_said_so(data: Path) -> None:
    with pytest.raises(SetError, match="no such folder"):
        open_set(data, "other")
    with pytest.raises(SetError, match=r"queries\.test\.jsonl\.gz: no such file"):
        open_set(data, "small", split="test")
    with pytest.raises(SetError, match="--data"):
        open_set(None, "small")


def test_the_sample_is_a_set() -> None:
    sample = open_set(None, "sample")
    assert len(sample.judged()) == 40
    assert all(question.answers and question.answerable for question in sample.questions)
    keys = set(sample.keys().values())
    assert all(document in keys for documents in sample.judgements.values() for document in documents)


def test_another_corpus_has_another_fingerprint(data: Path) -> None:
    before = open_set(data, "small").fingerprint()
    gzipped(data / "small" / "corpus.jsonl.gz", CORPUS[:1])
    assert open_set(data, "small").fingerprint() != before


def test_answers_are_asked_evenly_from_the_whole_set(data: Path) -> None:
    small = open_set(data, "small")
    assert [question.id for question in asked(small, None)] == ["q1", "q2", "q3", "q5"]
    assert [question.id for question in asked(small, 2)] == ["q1", "q3"]
    many = tuple(Question(str(i), "?", ("a",)) for i in range(1000))
    ten = asked(EvaluationSet("many", small.corpus, small.columns, many, {}), 10)
    assert [question.id for question in ten] == [str(i * 100) for i in range(10)]


def a_run(name: str, mode: str, values: dict[str, float], **setup: object) -> Run:
    common = {"kind": "retrieval", "set": "small", "split": "dev", "turns": "last", "questions": len(values)}
    figures = {id: {"ndcg@10": value, "top-1": float(value == 1)} for id, value in values.items()}
    found = {id: {"question": f"<b>{id}</b>?", "documents": ["d1", "d2"]} for id in values}
    return Run(name, {**common, "mode": mode, "rerank": None, "label": "", **setup}, {"seconds": 1.5}, figures, found)


def test_a_run_is_read_as_it_was_saved(tmp_path: Path) -> None:
    run = a_run("20260101T000000.000-x", "dense", {"a": 0.5, "ü": 1.0})
    assert load(save(run, tmp_path)) == run
    assert run.means == {"ndcg@10": 0.75, "top-1": 0.5}


def test_runs_sort_by_time() -> None:
    first = new_name({"kind": "retrieval", "set": "small", "mode": "dense"})
    assert first.endswith("-retrieval-small-dense")
    assert first[:19] <= new_name({"kind": "answers", "set": "a", "mode": "sparse"})[:19]


def test_the_newest_of_each_setup_before_a_run(tmp_path: Path) -> None:
    values = {"a": 0.5, "b": 1.0}
    for name, mode, setup in (
        ("20260101T000000.000-1", "dense", {}),
        ("20260102T000000.000-2", "dense", {}),
        ("20260103T000000.000-3", "sparse", {}),
        ("20260104T000000.000-4", "dense", {"set": "other"}),
        ("20260105T000000.000-5", "dense", {"kind": "answers"}),
        ("20260109T000000.000-9", "sparse", {}),
    ):
        save(a_run(name, mode, values, **setup), tmp_path)
    (tmp_path / "20260101T120000.000-broken").mkdir()
    found = earlier(a_run("20260106T000000.000-6", "hybrid", values), tmp_path)
    assert [run.name[-1] for run in found] == ["3", "2"]


@pytest.mark.parametrize("asked", [{"passages": 30}, {"corpus": "b"}, {"top_k": 3}, {"foreign": "x"}])
def test_runs_that_were_asked_for_something_else_are_not_compared(asked: dict[str, object], tmp_path: Path) -> None:
    values = {"a": 0.5, "b": 1.0}
    common = {"passages": 100, "corpus": "a", "top_k": 5, "foreign": None}
    save(a_run("20260101T000000.000-1", "dense", values, **{**common, **asked}), tmp_path)
    save(a_run("20260102T000000.000-2", "dense", {"x": 0.5, "y": 1.0}, **common, fusion="other questions"), tmp_path)
    new = a_run("20260103T000000.000-3", "dense", values, **common)
    assert earlier(new, tmp_path) == []


def test_a_comparison_says_what_was_set_otherwise(tmp_path: Path) -> None:
    values = {"a": 0.5, "b": 1.0}
    old = a_run("20260101T000000.000-1", "dense", values, fusion="ranks", encoder="e")
    save(old, tmp_path)
    new = a_run("20260102T000000.000-2", "hybrid", values, fusion="scores", encoder="e", rerank_prior=2.0)
    assert earlier(new, tmp_path) == [old]
    assert differing(old, new) == "fusion ranks, not scores; rerank_prior –, not 2.0"
    said = line(old, new, "ndcg@10")
    assert said is not None
    assert said.endswith("against small dense of 2026-01-01 00:00 (fusion ranks, not scores; rerank_prior –, not 2.0)")
    assert line(old, new, "f1") is None
    assert "had fusion ranks, not scores" in report.rendered(new, [old])


def test_a_run_says_how_its_gateway_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHAROS_FUSION", "ranks")
    monkeypatch.setenv("PHAROS_RERANK_PRIOR", "0.5")
    card = ModelCard("models/e", 8, 256, "g", 512, "simulated", reranker="r")
    int8 = msgspec.structs.replace(card, encoder_backend="openvino-int8")
    said = configured(card, card, {"min_score": 0.4})
    assert said.items() >= {"encoder": "e", "fusion": "ranks", "rerank_prior": 0.5, "min_score": 0.4}.items()
    assert "passages_encoder" not in said
    assert configured(card, int8, {})["passages_encoder"] == "e_openvino-int8"
    assert said["rerank"] is True
    monkeypatch.setenv("PHAROS_RERANK", "off")
    assert configured(card, card, {})["rerank"] is False


def test_more_similar_to_what_cannot_be_answered_is_worse() -> None:
    def run(name: str, by: float) -> Run:
        figures = {str(i): {"similarity_answerable": 0.2 + by} for i in range(20)}
        figures |= {f"no {i}": {"similarity_unanswerable": 0.1 + by} for i in range(20)}
        setup = {"kind": "answerability", "set": "small", "split": "dev", "mode": "dense"}
        return Run(name, setup, {}, figures, {})

    page = report.rendered(run("20260102T000000.000-2", 0.3), [run("20260101T000000.000-1", 0)])
    assert page.count('class="number better">+0.300') == 2  # of what can be answered, here and among earlier runs
    assert page.count('class="number worse">+0.300') == 1


def test_the_page_shows_the_difference_and_escapes_what_people_wrote() -> None:
    values = {str(i): 0.2 for i in range(30)}
    old = a_run("20260101T000000.000-1", "dense", values)
    new = a_run("20260102T000000.000-2", "dense", {id: value + 0.3 for id, value in values.items()})
    page = report.rendered(new, [a_run("20260101T120000.000-h", "hybrid", values), old])
    assert 'class="number better">+0.300</td>' in page
    assert "<b>11</b>" not in page
    assert "&lt;b&gt;11&lt;/b&gt;?" in page
    assert page.count("data:image/png;base64,") == 3
    assert "small hybrid" in page
    alone = report.rendered(old, [])
    assert "95 % interval" not in alone
    assert "Lost most" not in alone
    lost = report.rendered(a_run("20260103T000000.000-3", "dense", {"0": 0.0, "1": 0.2}), [old])
    assert "0.20 → 0.00" in lost
    assert "0.20 → 0.20" not in lost


def test_a_run_of_answers_has_a_page() -> None:
    setup = {"kind": "answers", "set": "small", "split": "dev", "turns": "last", "mode": "dense", "label": ""}
    figures = {"a": {"f1": 0.5, "seconds": 2.0}, "b": {"refused_unanswerable": 1.0, "seconds": 1.0}}
    found = {
        "a": {"question": "Who?", "answer": "<i>Uirab</i>", "gold": ("Uirab",), "sources": ()},
        "b": {"question": "Why?", "answer": "Not in the documents.", "gold": (), "sources": ()},
    }
    page = report.rendered(Run("20260101T000000.000-a", setup, {}, figures, found), [])
    assert "&lt;i&gt;Uirab&lt;/i&gt; (gold: Uirab)" in page
    assert runs.title(Run("x", setup, {}, figures, found)) == "small dense"


async def test_the_lexical_judge_counts_words_from_the_passages() -> None:
    judge = LexicalJudge()
    assert await judge.faithfulness("?", ["Oil fell to 41 dollars."], "Oil fell [1].") == 1
    assert await judge.faithfulness("?", ["Oil fell to 41 dollars."], "Oil rose.") == 0.5
    assert await judge.faithfulness("?", ["Oil fell."], "[1]") is None


@pytest.mark.parametrize(
    ("reply", "wanted"), [("4", 1), ("Grade: 1.", 0), ("3/4", 2 / 3), ("no idea", None), ("10", None), ("42 2", 1 / 3)]
)
def test_the_grade_in_a_judges_reply(reply: str, wanted: float | None) -> None:
    assert score_of(reply) == wanted


def test_scores_and_grades_are_the_same_scale() -> None:
    assert [grade_of((grade - 1) / 3) for grade in GRADES] == list(GRADES)


class Scripted:
    """Gives the scores it was told to, in turn."""

    def __init__(self, *scores: float | None) -> None:
        self._scores = iter(scores)

    async def faithfulness(self, question: str, passages: Sequence[str], answer: str) -> float | None:  # noqa: ARG002
        return next(self._scores)


async def test_agreement_with_people() -> None:
    rated = [Rated("?", (), "", grades) for grades in ((4, 4, 3), (1, 1), (2, 4), (3, 3))]
    same = await agreement(Scripted(1, 0, 1 / 3, 2 / 3), rated)
    assert (same.kappa, same.answers, same.unrated) == (1, 4, 0)
    opposite = await agreement(Scripted(0, 1, 1, None), rated)
    assert opposite.unrated == 1
    assert opposite.kappa < 0 < same.spearman
    assert opposite.people == same.people


async def test_where_nothing_can_be_compared_that_is_said() -> None:
    none = await agreement(Scripted(None, None), [Rated("?", (), "", (4, 3)), Rated("?", (), "", (1, 1))])
    assert (none.answers, none.unrated) == (0, 2)
    assert "0 answers (2 without a rating): weighted kappa nan" in str(none)
    alone = await agreement(Scripted(1, 0), [Rated("?", (), "", (4,)), Rated("?", (), "", (1,))])
    assert alone.kappa == 1
    assert "between two people nan" in str(alone)


async def test_judges_of_one_model_at_two_places_are_two() -> None:
    places = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
    options = argparse.Namespace(judges=[*places, places[0], "lexical"], judge_model="m", judge_key="PHAROS_JUDGE_KEY")
    async with judges_of(options, "") as judges:
        assert list(judges) == [f"m at {places[0]}", f"m at {places[1]}", "lexical"]


def test_a_judge_that_cannot_be_asked_is_known_before_any_question_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["--judge", "http://127.0.0.1:1/v1", "--judge-model", "m"]
    place = ["--data", str(data), "--set", "small", "--runs", str(tmp_path / "runs")]
    # Nothing is there either to answer the questions: what is said shows which was asked first.
    assert answers.main([*place, *GATEWAY, *judge]) == 1
    assert capsys.readouterr().err == "error: Connection error.\n"


def test_a_set_without_gold_answers_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gzipped(data / "small" / "queries.dev.jsonl.gz", [{"_id": "q1", "text": "Who?"}])
    assert answers.main(["--data", str(data), "--set", "small", "--runs", str(tmp_path / "runs"), *GATEWAY]) == 1
    assert "error: small has no question with a gold answer" in capsys.readouterr().err


def test_one_gold_answer_may_be_a_string_and_a_number_is_none(data: Path) -> None:
    queries = data / "small" / "queries.dev.jsonl.gz"
    gzipped(queries, [{"_id": "q1", "text": "Where?", "metadata": {"answers": "Paris"}}])
    assert open_set(data, "small").questions[0].answers == ("Paris",)
    for wrong in (41, [41]):
        gzipped(queries, [{"_id": "q1", "text": "How much?", "metadata": {"answers": wrong}}])
        with pytest.raises(SetError, match=r"question q1: its gold answers are .*41"):
            open_set(data, "small")


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('loading'); raise SystemExit('no such reranker: tpyo')"]
    service = Service("app_llm", command, "http://127.0.0.1:1", tmp_path / "log", {})
    with (
        pytest.raises(StackError, match=r"^app_llm does not start \(.*log\): no such reranker: tpyo$"),
        running(service, lambda _: False),
    ):
        pass


GATEWAY = ["--gateway", "http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (retrieval, [*GATEWAY, "--recreate"], "--recreate says nothing to a gateway that runs already"),
        (retrieval, [*GATEWAY, "--language", "korean"], "--language says nothing"),
        (ablation, [*GATEWAY, "--passages-by", "http://x"], "--passages-by says nothing"),
        (answerability, [*GATEWAY, "--model-service", "http://x"], "--model-service says nothing"),
        (answers, [*GATEWAY, "--milvus", "http://x"], "--milvus says nothing"),
        (answers, [*GATEWAY, "--min-score", "0"], "--min-score says nothing"),
        (answers, [*GATEWAY, "--engine", "vllm"], "--engine says nothing"),
        (retrieval, ["--concurrent", "0"], "--concurrent: '0' is no number of 1 or more"),
        (ablation, ["--at-once", "1", "0"], "--at-once: '0' is no number of 1 or more"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    command: ModuleType, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.parse(arguments)
    assert said in capsys.readouterr().err


def test_a_running_gateway_cannot_be_given_caches(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main([*GATEWAY, "--switch", "cache"]) == 1
    assert "error: cache needs a gateway of our own, started with PHAROS_CACHE_VECTORS" in capsys.readouterr().err


def test_another_sets_documents_are_no_result() -> None:
    require_own("small", {"d1"}, ["x", "d1"])
    for found in (["x", "y"], []):
        with pytest.raises(FindingFailed, match="no question found a document of small: is it this set"):
            require_own("small", {"d1"}, found)


async def test_kappa_by_hand() -> None:
    # Judge 1, 4, 4, 1 against people 1, 4, 1, 4: half agree, as chance would have it.
    rated = [Rated("?", (), "", (grade, grade)) for grade in (1, 4, 1, 4)]
    found = await agreement(Scripted(0, 1, 1, 0), rated)
    assert found.kappa == pytest.approx(0)
    assert found.people == pytest.approx(1)


def test_ratings_are_read_with_their_passages(tmp_path: Path) -> None:
    gzipped(tmp_path / "mtrag_un" / "corpus.jsonl.gz", CORPUS)
    faithfulness = {"r1": {"value": "4"}, "r2": {"value": "2"}, "r3": {"value": "N/A"}}
    turn = {
        "_id": "t",
        "messages": [{"role": "user", "content": "Seen?"}],
        "context_ids": ["d1", "elsewhere"],
        "responses": [
            {"model": "m", "response": "A comet.", "annotations": {"faithfulness": faithfulness}},
            {"model": "n", "response": "Nobody rated this.", "annotations": {}},
        ],
    }
    gzipped(tmp_path / "mtrag_human_eval" / "responses.dev.jsonl.gz", [turn])
    assert rated_answers(tmp_path) == [Rated("Seen?", ("Comet\nA comet was seen.",), "A comet.", (4, 2))]
    with pytest.raises(SetError):
        rated_answers(tmp_path / "nowhere")


def test_headings_become_questions_of_what_is_known(tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"
    assert (
        known_items.main(["--dataset", str(SAMPLE_FOLDER / "articles.csv"), "--out", str(out), "--questions", "9"]) == 0
    )
    made = open_set(tmp_path / "data", "own")
    documents = list(made.dataset().documents(Tally()))
    assert len(documents) == 72
    assert not any(document.title for document in documents)
    dates = {document.key: document.date for document in documents}
    assert all(dates.values())
    assert len(made.judged()) == len(made.questions) == 9
    halves = [open_set(tmp_path / "data", "own", split=split).questions for split in ("older", "newer")]
    older, newer = ([dates[question.id] for question in half] for half in halves)
    assert (len(older), len(newer)) == (4, 5)
    assert max(older) <= min(newer)


def test_a_heading_of_two_documents_asks_for_neither() -> None:
    documents = [
        Document(str(n), title, "t", "", "") for n, title in enumerate(["A b c", "a B c", "Too short", "D e f"])
    ]
    assert [one.id for one in known_items.asked_about(documents, 10)] == ["3"]
    assert known_items.splits(documents)["older"] == []
