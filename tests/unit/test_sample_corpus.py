"""The sample that ships with Pharos: articles to load, and questions whose answers are in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from setup_milvus.datasets import Columns, Dataset, Document, Tally

SAMPLE = Path(__file__).parents[2] / "setup_milvus" / "sample"


@pytest.fixture(scope="module")
def tally() -> Tally:
    return Tally()


@pytest.fixture(scope="module")
def articles(tally: Tally) -> list[Document]:
    return list(Dataset.open(SAMPLE / "articles.csv", Columns()).documents(tally))


@pytest.fixture(scope="module")
def questions() -> list[dict[str, str]]:
    return [json.loads(line) for line in (SAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_there_are_enough_articles_in_enough_topics(articles: list[Document]) -> None:
    assert len(articles) >= 60
    topics = {article.topic for article in articles}
    assert len(topics) >= 4
    assert all(sum(article.topic == topic for article in articles) >= 5 for topic in topics)


def test_no_row_is_dropped_or_mended(articles: list[Document], tally: Tally) -> None:
    assert tally == Tally(rows=len(articles), documents=len(articles))


def test_every_article_has_a_heading_of_its_own_and_a_date(articles: list[Document]) -> None:
    assert len({article.title for article in articles}) == len(articles)
    assert [article.title for article in articles if not article.date.startswith("20")] == []


def test_there_are_forty_different_questions(questions: list[dict[str, str]]) -> None:
    assert len({question["question"] for question in questions}) == len(questions) == 40
    assert all(question["question"].endswith("?") for question in questions)


def test_the_questions_cover_every_topic(articles: list[Document], questions: list[dict[str, str]]) -> None:
    assert {question["topic"] for question in questions} == {article.topic for article in articles}


def test_each_question_names_its_article_as_ingestion_does(
    articles: list[Document], questions: list[dict[str, str]]
) -> None:
    by_heading = {article.title: (article.id, article.topic) for article in articles}
    wrong = [q for q in questions if by_heading.get(q["heading"]) != (q["article_id"], q["topic"])]
    assert wrong == []


def test_each_answer_is_in_its_article_and_not_in_the_question(
    articles: list[Document], questions: list[dict[str, str]]
) -> None:
    texts = {article.id: article.text for article in articles}
    assert [q for q in questions if not q["answer"] or q["answer"] not in texts[q["article_id"]]] == []
    assert [q for q in questions if q["answer"].lower() in q["question"].lower()] == []
