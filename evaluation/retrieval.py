"""`python -m evaluation.retrieval`: is the right document found?

    python -m evaluation.retrieval --set sample
    python -m evaluation.retrieval --data FOLDER --set NAME --set NAME --mode dense --mode hybrid

Loads each set's documents as `setup_milvus` does and asks the gateway's POST /search, with the real encoder and a
simulated generator of its own, or against running services. docs/evaluation.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import runs, stack
from evaluation.finding import MODES, Finder, FindingFailed, Found, HttpFinder, find_all
from evaluation.finding_in_process import in_process
from evaluation.ranking import documents_of, figures_of
from evaluation.sets import EvaluationSet, SetError, open_set
from evaluation.significance import compare
from evaluation.stack import Services, StackError

DOCUMENTS = 100
"""Deepest rank that a measure looks at."""

PASSAGES = 100
CONCURRENT = 8


async def evaluate(
    finder: Finder, chosen: EvaluationSet, setup: dict[str, Any], *, limit: int | None, concurrent: int
) -> runs.Run:
    """Ask every judged question of the set. Raises FindingFailed."""
    questions = chosen.judged(limit)
    if not questions:
        raise SetError(f"{chosen.name} has no judged question")
    keys = chosen.keys()
    started = time.monotonic()
    found = await find_all(finder, questions, concurrent)
    seconds = time.monotonic() - started
    return _run(chosen, setup, found, keys, seconds, concurrent)


def _run(
    chosen: EvaluationSet,
    setup: dict[str, Any],
    found: dict[str, Found],
    keys: dict[str, str],
    seconds: float,
    concurrent: int,
) -> runs.Run:
    # A document that is not of this set has no judgement, but it has a rank.
    rankings = {
        id: documents_of(keys.get(document, document) for document in one.documents)[:DOCUMENTS]
        for id, one in found.items()
    }
    waits = np.array([one.seconds for one in found.values()])
    done = sorted({one.mode for one in found.values()})
    facts = {
        "seconds": round(seconds, 3),
        "questions_per_second": round(len(found) / seconds, 2),
        "concurrent": concurrent,
        "seconds_median": round(float(np.median(waits)), 4),
        "seconds_p95": round(float(np.quantile(waits, 0.95)), 4),
        "documents": len(keys),
        "modes_done": done,
        "best_score_median": round(float(np.median([one.scores[0] if one.scores else 0 for one in found.values()])), 4),
    }
    texts = {question.id: question.text for question in chosen.questions}
    setup = {**setup, "questions": len(found)}
    return runs.Run(
        runs.new_name(setup),
        setup,
        facts,
        figures_of(rankings, chosen.judgements),
        {id: {"question": texts[id], "documents": documents[:10]} for id, documents in rankings.items()},
    )


def said(run: runs.Run, before: Sequence[runs.Run]) -> str:
    """The run in lines for a terminal, with what it gained over `before`."""
    setup, facts = run.setup, run.facts
    means = "  ".join(f"{name} {value:.3f}" for name, value in run.means.items())
    lines = [
        f"{_title(run)}  {means}  "
        f"({setup['questions']} questions, {facts['questions_per_second']}/s, "
        f"median {1000 * facts['seconds_median']:.0f} ms at {facts['concurrent']} at a time)"
    ]
    if facts["modes_done"] != [setup["mode"]]:
        lines.append(f"  note: the gateway searched {', '.join(facts['modes_done'])}")
    for other in before:
        gain = compare(other.column("ndcg@10"), run.column("ndcg@10"))
        verdict = "significant" if gain.significant else "not significant"
        lines.append(
            f"  ndcg@10 {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] p {gain.p:.4f} ({verdict}) against "
            f"{_title(other)} of {other.name.partition('-')[0]}"
        )
    return "\n".join(lines)


def _title(run: runs.Run) -> str:
    return f"{run.setup['set']} {run.setup['mode']}" + (" + rerank" if run.setup["rerank"] else "")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.retrieval", description="Is the right document found? (docs/evaluation.md)"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the folder that holds the sets' folders")
    parser.add_argument("--set", dest="sets", action="append", metavar="NAME", help="again for more; default: sample")
    parser.add_argument("--mode", dest="modes", action="append", choices=MODES, help="again for more; default: hybrid")
    rerank = parser.add_mutually_exclusive_group()
    rerank.add_argument("--rerank", dest="rerank", action="store_true", default=None, help="with the reranker")
    rerank.add_argument("--no-rerank", dest="rerank", action="store_false", help="without; default: as configured")
    parser.add_argument("--split", default="dev", help="default: %(default)s")
    parser.add_argument("--turns", choices=("last", "all"), default="last", help="of a conversation; default: last")
    parser.add_argument("--limit-queries", type=int, metavar="N", help="only the first N judged questions")
    parser.add_argument("--passages", type=int, default=PASSAGES, help="to ask for; default: %(default)s")
    parser.add_argument("--concurrent", type=int, default=CONCURRENT, help="questions at a time; default: %(default)s")
    parser.add_argument("--label", default="", help="what was changed; runs of another label are another setup")
    parser.add_argument("--recreate", action="store_true", help="load the documents anew")
    parser.add_argument("--in-process", action="store_true", help="the gateway's Retriever in this process; dense")
    parser.add_argument("--gateway", metavar="URL", help="a running gateway, which holds the set already")
    parser.add_argument("--model-service", metavar="URL", help="a running app_llm")
    parser.add_argument("--milvus", metavar="URI", help="a running Milvus")
    options = parser.parse_args(arguments)
    options.sets = options.sets or ["sample"]
    options.modes = options.modes or ["hybrid"]
    if options.gateway and len(options.sets) > 1:
        parser.error("a running gateway serves one collection: give one --set")
    return options


def run(options: argparse.Namespace) -> list[runs.Run]:
    """Every set in every mode; each run is saved as soon as it is done. Raises SetError, StackError, FindingFailed."""
    chosen = [open_set(options.data, name, split=options.split, turns=options.turns) for name in options.sets]
    done: list[runs.Run] = []
    with ExitStack() as started:
        where = None
        if not options.gateway:
            where = started.enter_context(stack.services(options.model_service, options.milvus, engine="simulated"))
        for one in chosen:
            done += _run_set(options, one, where)
    return done


def _run_set(options: argparse.Namespace, chosen: EvaluationSet, where: Services | None) -> list[runs.Run]:
    done = []
    with ExitStack() as started:
        url, collection = options.gateway, ""
        if where is not None:
            began = time.monotonic()
            collection = asyncio.run(stack.ingested(where, chosen, recreate=options.recreate))
            print(f"{chosen.name}: documents ready in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            if not options.in_process:
                url = started.enter_context(stack.gateway(where, collection, **SEARCH_SETTINGS))
        for mode in options.modes:
            setup = {
                "kind": "retrieval",
                "set": chosen.name,
                "split": options.split,
                "turns": options.turns,
                "mode": mode,
                "rerank": options.rerank,
                "label": options.label,
            }
            result = asyncio.run(_evaluate(options, chosen, setup, url, where, collection))
            runs.save(result)
            print(said(result, runs.earlier(result)), flush=True)
            done.append(result)
    return done


async def _evaluate(
    options: argparse.Namespace,
    chosen: EvaluationSet,
    setup: dict[str, Any],
    url: str,
    where: Services | None,
    collection: str,
) -> runs.Run:
    limits = {"limit": options.limit_queries, "concurrent": options.concurrent}
    if options.in_process and where is not None:
        async with in_process(where, collection, options.passages) as own:
            return await evaluate(own, chosen, setup, **limits)
    async with HttpFinder(url, setup["mode"], options.passages, rerank=setup["rerank"]) as finder:
        return await evaluate(finder, chosen, setup, **limits)


SEARCH_SETTINGS: dict[str, object] = {"milvus_timeout_seconds": 30, "log_level": "warning"}
"""Of the gateway that we start: Milvus Lite scans, and a question that is late is still to be counted."""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        run(options)
    except (SetError, StackError, FindingFailed) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
