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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from openai import OpenAIError

from evaluation import judging, options, report, runs
from evaluation.answer_figures import Reply, figures_of
from evaluation.asking import HttpAsker
from evaluation.gateway import FindingFailed, of_each
from evaluation.judging import Judge
from evaluation.sets import EvaluationSet, Question, SetError
from evaluation.significance import compare
from evaluation.stack import StackError

GATEWAY_SETTINGS: dict[str, object] = {
    "milvus_timeout_seconds": 30,
    "request_timeout_seconds": 600,
    "queue_seconds": 600,
    "log_level": "warning",
}
"""Of the gateway that we start: on a small machine an answer takes long, and one that is late is still to be judged."""


def asked(chosen: EvaluationSet, limit: int | None) -> tuple[Question, ...]:
    """The questions that an answer can be scored on; with a limit evenly from the whole file, since neighbours are
    often of one document."""
    questions = [question for question in chosen.questions if question.answerable is not None or question.answers]
    if limit is None or limit >= len(questions):
        return tuple(questions)
    return tuple(questions[number * len(questions) // limit] for number in range(limit))


async def evaluate(
    asker: HttpAsker, questions: Sequence[Question], setup: Mapping[str, Any], judge: Judge | None, concurrent: int
) -> runs.Run:
    """Ask every question. Raises FindingFailed, and what the judge raises."""
    started = time.monotonic()
    replies = await of_each(asker.ask, questions, concurrent)
    seconds = time.monotonic() - started
    figures = {question.id: figures_of(question, replies[question.id]) for question in questions}
    if judge is not None:
        for question in questions:
            rating = await _rating(judge, question, replies[question.id], figures[question.id])
            if rating is not None:
                figures[question.id]["faithfulness"] = rating
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


async def _rating(judge: Judge, question: Question, reply: Reply, figures: Mapping[str, float]) -> float | None:
    """None for a refusal, which claims nothing."""
    if figures.get("refused_answerable") or figures.get("refused_unanswerable"):
        return None
    return await judge.faithfulness(question.text, reply.sources, reply.answer)


def said(run: runs.Run, before: Sequence[runs.Run]) -> str:
    """The run in lines for a terminal, with what its F1 gained over `before`."""
    means = "  ".join(f"{name} {value:.3f}" for name, value in run.means.items())
    lines = [f"{runs.title(run)}  {means}  ({run.setup['questions']} questions)"]
    for other in before:
        if run.column("f1") and other.column("f1"):
            gain = compare(other.column("f1"), run.column("f1"))
            lines.append(f"  f1 {gain} against {runs.title(other)} of {runs.when(other)}")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.answers", description="Is the answer right, cited, or rightly refused?"
    )
    options.add(parser)
    parser.add_argument("--top-k", type=int, default=5, help="passages to look at; default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer; default: %(default)s")
    parser.add_argument("--engine", choices=("vllm", "simulated"), default="vllm", help="default: %(default)s")
    parser.add_argument("--min-score", type=float, help="PHAROS_MIN_SCORE of the gateway that is started")
    judging.add_options(parser)
    return options.checked(parser, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> list[runs.Run]:
    """Every set in every mode; each run is saved as soon as it is done. Raises SetError, StackError, FindingFailed and
    openai's errors."""
    sets = options.sets_of(chosen)
    gateway_settings = GATEWAY_SETTINGS | ({} if chosen.min_score is None else {"min_score": chosen.min_score})
    done: list[runs.Run] = []
    with ExitStack() as started:
        where = options.services_of(chosen, started, engine=chosen.engine)
        for one in sets:
            with ExitStack() as of_set:
                url = options.gateway_of(chosen, of_set, where, one, gateway_settings)
                for mode in chosen.modes:
                    done.append(_run(chosen, one, mode, url))
    return done


def _run(chosen: argparse.Namespace, one: EvaluationSet, mode: str, url: str) -> runs.Run:
    setup = {
        **options.setup_of(chosen, one, mode, kind="answers"),
        "top_k": chosen.top_k,
        "max_tokens": chosen.max_tokens,
        "min_score": chosen.min_score,
        "engine": chosen.engine,
        "judge": chosen.judge and f"{chosen.judge} {chosen.judge_model}".strip(),
    }
    body = {"top_k": chosen.top_k, "max_tokens": chosen.max_tokens, "mode": mode}

    async def ask() -> runs.Run:
        async with HttpAsker(url, body) as asker:
            questions = asked(one, chosen.limit_queries)
            return await evaluate(asker, questions, setup, judging.judge_of(chosen), chosen.concurrent)

    result = asyncio.run(ask())
    folder = runs.save(result, chosen.runs)
    before = runs.earlier(result, chosen.runs)
    print(said(result, before), flush=True)
    print(f"  {report.write(result, before, folder)}", flush=True)
    return result


def main(arguments: list[str] | None = None) -> int:
    try:
        run(parse(arguments))
    except (SetError, StackError, FindingFailed, OpenAIError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
