"""`python -m evaluation.answerability`: what does a threshold on similarity (PHAROS_MIN_SCORE) refuse?

    python -m evaluation.answerability --data FOLDER --set squad_v2
    python -m evaluation.answerability --data FOLDER --set sample --foreign cranfield

The first asks a set's own unanswerable questions, the second those of another set, which the documents at hand know
nothing of. No answer is generated: POST /search gives the similarity of the best passage.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from app.settings import Settings
from contracts.types import SearchMode
from evaluation import commands, options, refusing, runs
from evaluation.answers import asked
from evaluation.finding import HttpFinder
from evaluation.gateway import of_each, require_own
from evaluation.options import Front, positive
from evaluation.ranking import Figures
from evaluation.refusing import ANSWERABLE, UNANSWERABLE
from evaluation.retrieval import GATEWAY_SETTINGS
from evaluation.sets import EvaluationSet, Question, SetError, open_set

COSTS = (0.01, 0.05, 0.1, 0.2)
"""Shares of answerable questions that one may be ready to refuse."""


async def evaluate(
    finder: HttpFinder,
    chosen: EvaluationSet,
    questions: Sequence[Question],
    setup: Mapping[str, Any],
    min_score: float,
    concurrent: int,
) -> runs.Run:
    """Ask all of them. Raises FindingFailed."""
    started = time.monotonic()
    found = await of_each(finder.find, questions, concurrent)
    seconds = time.monotonic() - started
    require_own(chosen.name, chosen.keys(), (document for one in found.values() for document in one.documents))
    figures: dict[str, Figures] = {}
    for question in questions:
        similarity = found[question.id].similarity
        name = ANSWERABLE if question.answerable else UNANSWERABLE
        figures[question.id] = {name: -1.0 if similarity is None else similarity}
    setup = {**setup, "questions": len(questions)}
    run = runs.Run(
        runs.new_name(setup), setup, {}, figures, {question.id: {"question": question.text} for question in questions}
    )
    both = run.column(ANSWERABLE), run.column(UNANSWERABLE)
    facts = {
        "seconds": round(seconds, 3),
        "auc": round(refusing.auc(*both), 4),
        "as configured": str(refusing.at_threshold(*both, min_score)),
        **{f"at most {cost:.0%} wrongly": str(refusing.at_cost(*both, cost)) for cost in COSTS},
    }
    return dataclasses.replace(run, facts=facts)


def questions_of(chosen: EvaluationSet, foreign: EvaluationSet | None, limit: int | None) -> tuple[Question, ...]:
    """Answerable and unanswerable ones, at most `limit` of each. Raises SetError where one kind is missing."""
    if foreign is None:
        known = [question for question in asked(chosen, None) if question.answerable is not None]
        yes = [question for question in known if question.answerable]
        no = [question for question in known if not question.answerable]
    else:
        yes = [dataclasses.replace(question, answerable=True) for question in chosen.judged()]
        no = [
            dataclasses.replace(question, id=f"{foreign.name} {question.id}", answerable=False)
            for question in foreign.questions
        ]
    if not yes or not no:
        raise SetError(f"{chosen.name} lacks answerable or unanswerable questions; --foreign NAME lends some")
    return (*yes[:limit], *no[:limit])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.answerability", description="What does a threshold on similarity refuse?"
    )
    options.add(parser)
    parser.add_argument("--foreign", metavar="NAME", help="a set whose questions these documents do not answer")
    parser.add_argument("--passages", type=positive, default=10, help="to ask for; default: %(default)s")
    return options.checked(parser, parser.parse_args(arguments))


def said(run: runs.Run, _: Sequence[runs.Run]) -> str:
    """The run in lines for a terminal; what matters is its own curve, not its mean beside another's."""
    lines = [f"{runs.title(run)} ({run.setup['questions']} questions)"]
    return "\n".join([*lines, *(f"  {name}: {value}" for name, value in run.facts.items())])


def run(chosen: argparse.Namespace) -> list[runs.Run]:
    """Every set in every mode. Raises SetError, StackError, FindingFailed."""
    foreign = None
    if chosen.foreign:
        foreign = open_set(chosen.data, chosen.foreign, split=chosen.split, turns=chosen.turns)
    sets = options.sets_of(chosen)
    # All of them before anything starts: a set may lack one kind.
    questions = {one.name: questions_of(one, foreign, chosen.limit_queries) for one in sets}

    async def measure(one: EvaluationSet, mode: SearchMode, front: Front) -> runs.Run:
        setup = {
            **options.setup_of(chosen, one, mode, front, kind="answerability"),
            "foreign": chosen.foreign,
            "passages": chosen.passages,
        }
        async with HttpFinder(front.url, mode, chosen.passages) as finder:
            result = await evaluate(finder, one, questions[one.name], setup, Settings().min_score, chosen.concurrent)
        return commands.finished(result, chosen.runs, said)

    return commands.over(chosen, sets, measure, engine="simulated", settings=GATEWAY_SETTINGS)


def main(arguments: list[str] | None = None) -> int:
    return commands.exit_status(lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
