"""`python -m evaluation.retrieval`: is the right document found?

    python -m evaluation.retrieval --set sample
    python -m evaluation.retrieval --data FOLDER --set NAME --set NAME --mode dense --mode hybrid

Loads each set's documents as `setup_milvus` does and asks the gateway's POST /search, of services of its own (real
encoder; the real LLM only where it is to expand questions) or of running ones. docs/evaluation.md says what the figures
mean.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contracts.types import SearchMode
from evaluation import commands, comparing, options, runs
from evaluation.finding import EXPANSIONS, HttpFinder
from evaluation.gateway import of_each, require_own
from evaluation.options import Front, positive
from evaluation.ranking import documents_of, figures_of
from evaluation.sets import EvaluationSet, SetError

DOCUMENTS = 100
"""Deepest rank that a measure looks at."""

GATEWAY_SETTINGS: dict[str, object] = {
    "milvus_timeout_seconds": 60,
    "model_call_timeout_seconds": 120,
    "queue_seconds": 600,
    "log_level": "warning",
}
"""Of the gateway that we start: Milvus Lite scans, an LLM may take the CPU, and a question that is late is still to be
counted."""


async def evaluate(
    finder: HttpFinder, chosen: EvaluationSet, setup: Mapping[str, Any], *, limit: int | None, concurrent: int
) -> runs.Run:
    """Ask every judged question of the set. Raises SetError where there is none, and FindingFailed."""
    questions = chosen.judged(limit)
    if not questions:
        raise SetError(f"{chosen.name} has no judged question")
    keys = chosen.keys()
    started = time.monotonic()
    found = await of_each(finder.find, questions, concurrent)
    seconds = time.monotonic() - started
    require_own(chosen.name, keys, (document for one in found.values() for document in one.documents))
    # A document that is not of this set has no judgement, but it has a rank.
    rankings = {
        id: documents_of(keys.get(document, document) for document in one.documents)[:DOCUMENTS]
        for id, one in found.items()
    }
    waits = np.array([one.seconds for one in found.values()])
    facts = {
        "seconds": round(seconds, 3),
        "questions_per_second": round(len(found) / seconds, 2),
        "concurrent": concurrent,
        "seconds_median": round(float(np.median(waits)), 4),
        "seconds_p95": round(float(np.quantile(waits, 0.95)), 4),
        "documents": len(keys),
        "modes_done": sorted({one.mode for one in found.values()}),
    }
    expanded = [one.expand_seconds for one in found.values() if one.expand_seconds is not None]
    if expanded:
        facts["expand_seconds_median"] = round(float(np.median(expanded)), 4)
    setup = {**setup, "questions": len(found)}
    shown = {
        question.id: {
            "question": question.text,
            "documents": rankings[question.id][:10],
            "similarity": found[question.id].similarity,
            **({"expansion": texts} if (texts := found[question.id].expansion) is not None else {}),
        }
        for question in questions
    }
    return runs.Run(runs.new_name(setup), setup, facts, figures_of(rankings, chosen.judgements), shown)


def said(run: runs.Run, before: Sequence[runs.Run]) -> str:
    """The run in lines for a terminal, with what its nDCG@10 gained over `before`."""
    setup, facts = run.setup, run.facts
    means = "  ".join(f"{name} {value:.3f}" for name, value in run.means.items())
    lines = [
        f"{runs.title(run)}  {means}  ({setup['questions']} questions, {facts['questions_per_second']}/s, "
        f"median {1000 * facts['seconds_median']:.0f} ms at {facts['concurrent']} at a time)"
    ]
    if facts["modes_done"] != [setup["mode"]]:
        lines.append(f"  note: the gateway searched {', '.join(facts['modes_done'])}")
    gains = (comparing.line(other, run, "ndcg@10") for other in before)
    return "\n".join([*lines, *(f"  {gain}" for gain in gains if gain)])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.retrieval", description="Is the right document found?")
    options.add(parser)
    rerank = parser.add_mutually_exclusive_group()
    rerank.add_argument("--rerank", dest="rerank", action="store_true", default=None, help="with the reranker")
    rerank.add_argument("--no-rerank", dest="rerank", action="store_false", help="without; default: as configured")
    parser.add_argument(
        "--expand",
        dest="expansions",
        action="append",
        choices=EXPANSIONS,
        help="again for more; default: as configured",
    )
    parser.add_argument("--passages", type=positive, default=DOCUMENTS, help="to ask for; default: %(default)s")
    return options.checked(parser, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> list[runs.Run]:
    """Every set in every mode and expansion. Raises SetError, StackError, FindingFailed."""

    async def measure(one: EvaluationSet, mode: SearchMode, front: Front) -> list[runs.Run]:
        done = []
        for expand in chosen.expansions or [None]:
            said_so = {"rerank": chosen.rerank, "expand": expand}
            setup = {
                **options.setup_of(chosen, one, mode, front, kind="retrieval"),
                "passages": chosen.passages,
                **{name: value for name, value in said_so.items() if value is not None},
            }
            async with HttpFinder(front.url, mode, chosen.passages, rerank=chosen.rerank, expand=expand) as finder:
                result = await evaluate(finder, one, setup, limit=chosen.limit_queries, concurrent=chosen.concurrent)
            done.append(commands.finished(result, chosen.runs, said))
        return done

    # A simulated generator says nothing that could be searched for.
    engine = "vllm" if any(expand != "off" for expand in chosen.expansions or ()) else "simulated"
    each = commands.over(chosen, options.sets_of(chosen), measure, engine=engine, settings=GATEWAY_SETTINGS)
    return [run for done in each for run in done]


def main(arguments: list[str] | None = None) -> int:
    return commands.exit_status(lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
