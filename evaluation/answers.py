"""`python -m evaluation.answers`: is the answer right, cited, and refused where the documents do not hold it?

    python -m evaluation.answers --set sample
    python -m evaluation.answers --data FOLDER --set squad_v2 --limit-queries 200 --judge lexical

Loads each set's documents as `setup_milvus` does and asks the gateway's POST /ask, of services of its own (real
encoder and, unless --engine says otherwise, vLLM) or of running ones. docs/evaluation.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contracts.types import SearchMode
from evaluation import commands, comparing, judging, options, runs
from evaluation.answer_figures import Reply, figures_of
from evaluation.asking import HttpAsker
from evaluation.gateway import of_each, require_own
from evaluation.judging import Judge
from evaluation.options import Front, positive
from evaluation.sets import EvaluationSet, Question, SetError, evenly

GATEWAY_SETTINGS: dict[str, object] = {
    "milvus_timeout_seconds": 120,
    "model_call_timeout_seconds": 300,
    "request_timeout_seconds": 600,
    "queue_seconds": 600,
    "log_level": "warning",
}
"""Of the gateway that we start: on a small machine an answer takes long, and one that is late is still to be judged."""


def asked(chosen: EvaluationSet, limit: int | None) -> tuple[Question, ...]:
    """The questions that an answer can be scored on; with a limit evenly from the whole file."""
    known = [question for question in chosen.questions if question.answerable is not None or question.answers]
    return evenly(known, limit)


def require_own_sources(chosen: EvaluationSet, replies: Iterable[Reply]) -> None:
    """Raise FindingFailed where no reply shows a document of the set. Where all questions are refused nothing is shown,
    and the figures say so."""
    shown = {document for reply in replies for document in reply.documents}
    if shown:
        require_own(chosen.name, chosen.keys(), shown)


async def evaluate(
    asker: HttpAsker,
    chosen: EvaluationSet,
    questions: Sequence[Question],
    setup: Mapping[str, Any],
    judges: Mapping[str, Judge],
    concurrent: int,
) -> runs.Run:
    """Ask every question, and every judge of every answer. Raises FindingFailed, and what the judges raise."""
    started = time.monotonic()
    replies = await of_each(asker.ask, questions, concurrent)
    seconds = time.monotonic() - started
    require_own_sources(chosen, replies.values())
    figures = {question.id: figures_of(question, replies[question.id]) for question in questions}
    claiming = [question for question in questions if not _refused(figures[question.id])]
    for name, judge in judges.items():
        for id, rating in (await _ratings(judge, claiming, replies)).items():
            if rating is not None:
                figures[id][f"faithfulness, {name}"] = rating
    facts = {
        "seconds": round(seconds, 3),
        "questions_per_second": round(len(questions) / seconds, 3),
        "concurrent": concurrent,
    }
    setup = {**setup, "questions": len(questions)}
    found = {
        question.id: {
            "question": question.text,
            "answer": replies[question.id].answer,
            "gold": question.answers,
            "answerable": question.answerable,
            "sources": replies[question.id].sources,
        }
        for question in questions
    }
    return runs.Run(runs.new_name(setup), setup, facts, figures, found)


def _refused(figures: Mapping[str, float]) -> bool:
    """A refusal claims nothing, so no judge is asked about it."""
    return bool(figures.get("refused_answerable") or figures.get("refused_unanswerable"))


async def _ratings(
    judge: Judge, questions: Sequence[Question], replies: Mapping[str, Reply]
) -> dict[str, float | None]:
    slots = asyncio.Semaphore(judging.CONCURRENT)

    async def one(question: Question) -> float | None:
        reply = replies[question.id]
        async with slots:
            return await judge.faithfulness(question.text, reply.sources, reply.answer)

    ratings = await asyncio.gather(*map(one, questions))
    return {question.id: rating for question, rating in zip(questions, ratings, strict=True)}


def said(run: runs.Run, before: Sequence[runs.Run]) -> str:
    """The run in lines for a terminal, with what its F1 gained over `before`."""
    means = "  ".join(f"{name} {value:.3f}" for name, value in run.means.items())
    lines = [f"{runs.title(run)}  {means}  ({run.setup['questions']} questions)"]
    gains = (comparing.line(other, run, "f1") for other in before)
    return "\n".join([*lines, *(f"  {gain}" for gain in gains if gain)])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.answers", description="Is the answer right, cited, or rightly refused?"
    )
    options.add(parser)
    parser.add_argument("--top-k", type=positive, default=5, help="passages to look at; default: %(default)s")
    parser.add_argument("--max-tokens", type=positive, default=64, help="longest answer; default: %(default)s")
    parser.add_argument("--engine", choices=("vllm", "simulated"), help="default: vllm")
    parser.add_argument("--min-score", type=float, help="PHAROS_MIN_SCORE of the gateway that is started")
    judging.add_options(parser)
    chosen = options.checked(parser, parser.parse_args(arguments), of_our_own=("engine", "min_score"))
    chosen.engine = chosen.engine or "vllm"
    return chosen


def run(chosen: argparse.Namespace) -> list[runs.Run]:
    """Every set in every mode. Raises SetError, StackError, FindingFailed and openai's errors."""

    async def measure(one: EvaluationSet, mode: SearchMode, front: Front) -> runs.Run:
        setup = {
            **options.setup_of(chosen, one, mode, front, kind="answers"),
            "top_k": chosen.top_k,
            "max_tokens": chosen.max_tokens,
            "engine": None if chosen.gateway else chosen.engine,
            "judges": " ".join([*chosen.judges, chosen.judge_model]).strip(),
        }
        body = {"top_k": chosen.top_k, "max_tokens": chosen.max_tokens, "mode": mode}
        async with HttpAsker(front.url, body) as asker, judging.judges_of(chosen, front.url) as judges:
            await judging.probe(judges)  # the questions may take hours
            result = await evaluate(asker, one, questions[one.name], setup, judges, chosen.concurrent)
        return commands.finished(result, chosen.runs, said)

    sets = options.sets_of(chosen)
    questions = {one.name: asked(one, chosen.limit_queries) for one in sets}
    for name, known in questions.items():
        if not known:
            raise SetError(f"{name} has no question with a gold answer, or that is said to be answerable or not")
    settings = GATEWAY_SETTINGS | ({} if chosen.min_score is None else {"min_score": chosen.min_score})
    return commands.over(chosen, sets, measure, engine=chosen.engine, settings=settings)


def main(arguments: list[str] | None = None) -> int:
    return commands.exit_status(lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
