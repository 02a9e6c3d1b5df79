"""POST /search by 64 clients at once in each mode: what words and fusion cost over vectors alone.

Everything is real: encoder, gateway, Milvus Lite with the passages of a set (`--set FOLDER`, in BEIR's layout; the
packaged sample by default, which is small: a search's cost grows with what is searched). The modes take turns.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from statistics import fmean

from benchmarks.load.types import Closed, Load, Outcome
from benchmarks.options import Options
from benchmarks.results import Measured, Plot, Row, Series
from benchmarks.services import LOGS, gateway, model_service, running
from benchmarks.trial import Trial, Trials, attempt
from contracts.types import SearchMode
from evaluation import stack
from evaluation.finding import MODES
from evaluation.gateway import Gateway, of_each
from evaluation.retrieval import GATEWAY_SETTINGS
from evaluation.sets import SAMPLE, EvaluationSet, Question, open_set
from tests.support import processes
from tests.support.processes import Service, answers_ready, listens

AT_ONCE = 64
TOP_K = 10
PEER: SearchMode = "dense"
FIGURES = {"p50": "ms", "p95": "ms"}
STEPS = ("queue", "encode", "search", "total")


def run(options: Options) -> Measured:
    rounds, times = (1, 1) if options.quick else (5, 4)
    chosen = open_set(options.set.parent, options.set.name) if options.set else open_set(None, SAMPLE)
    questions = list(itertools.islice(itertools.cycle(chosen.questions), AT_ONCE * times))
    LOGS.mkdir(parents=True, exist_ok=True)
    (stack.FOLDER / "milvus-lite").mkdir(parents=True, exist_ok=True)
    milvus = processes.milvus_lite(stack.FOLDER / "milvus-lite", LOGS / "milvus.log")
    with (
        running(milvus, listens),
        running(model_service(engine="simulated", encoder="sentence-transformers"), answers_ready) as models,
    ):
        collection = asyncio.run(stack.ingested(stack.Services(models.url, milvus.url), chosen, None))
        front = gateway(models.url, milvus.url, collection=collection, **GATEWAY_SETTINGS)
        with running(front, answers_ready):
            trials: dict[SearchMode, list[Trial]] = {mode: [] for mode in MODES}
            for mode in MODES:
                attempt(_load(front, questions[:AT_ONCE], mode))
            for _ in range(rounds):
                for mode in MODES:
                    trials[mode].append(attempt(_load(front, questions, mode), front, models, milvus))
            steps = {mode: asyncio.run(_steps(front, questions[:AT_ONCE], mode)) for mode in MODES}
    found = {mode: Trials(some) for mode, some in trials.items()}
    rows = [row for mode in MODES if mode != PEER for row in _rows(mode, found, _note(chosen, steps, rounds, times))]
    bars = [Series(mode, {name: _milliseconds(each, name) for name in FIGURES}) for mode, each in found.items()]
    return Measured(rows, [Plot("hybrid", f"POST /search, {AT_ONCE} at once", "ms", bars)])


def _body(question: Question, mode: SearchMode) -> dict[str, object]:
    return {"question": question.text, "mode": mode, "top_k": TOP_K, "stages": False}


def _load(front: Service, questions: Sequence[Question], mode: SearchMode) -> Load:
    bodies = [json.dumps(_body(question, mode)) for question in questions]
    return Load(front.url + "/search", bodies, Closed(AT_ONCE, requests=len(bodies)))


async def _steps(front: Service, questions: Sequence[Question], mode: SearchMode) -> dict[str, float]:
    """The mean milliseconds of each step, as the answers themselves tell, while all questions are asked at once."""
    body = {name: value for name, value in _body(questions[0], mode).items() if name != "question"}
    async with Gateway(front.url, "/search", body, timeout_seconds=120) as asking:
        distinct = {question.id: question for question in questions}
        answers = await of_each(asking.post, list(distinct.values()), AT_ONCE)
    timings = [answer["timings"] for answer, _ in answers.values()]
    return {step: 1000 * fmean(each[step] for each in timings) for step in STEPS}


def _milliseconds(trials: Trials, percentile: str) -> float:
    def figure(outcome: Outcome) -> float:
        return 1000 * float(getattr(outcome.latency["200"], percentile))

    return trials.median(figure)


def _rows(mode: SearchMode, found: dict[SearchMode, Trials], note: str) -> list[Row]:
    ours, peer = found[mode], found[PEER]
    cpu = {**ours.cpu_seconds, **{f"{name} ({PEER})": seconds for name, seconds in peer.cpu_seconds.items()}}
    doubts = ours.doubts() + peer.doubts(PEER)
    rows = [
        Row(
            f"{mode}, {name}",
            unit,
            _milliseconds(ours, name),
            "lower",
            PEER,
            _milliseconds(peer, name),
            cpu_seconds=cpu,
            doubts=doubts,
            note=note,
        )
        for name, unit in FIGURES.items()
    ]
    rates = [each.median(lambda outcome: outcome.per_second) for each in (ours, peer)]
    return [
        *rows,
        Row(f"{mode}, throughput", "questions/s", rates[0], "higher", PEER, rates[1], doubts=doubts, note=note),
    ]


def _note(chosen: EvaluationSet, steps: dict[SearchMode, dict[str, float]], rounds: int, times: int) -> str:
    told = "; ".join(
        f"{mode}: " + ", ".join(f"{step} {value:.0f}" for step, value in means.items()) for mode, means in steps.items()
    )
    return (
        f"{chosen.name}, {len(chosen.keys()):,} documents; {rounds} rounds of {times * AT_ONCE} questions in turns, "
        f"{TOP_K} passages each. Mean ms of a question's steps, all {AT_ONCE} asked at the same instant: {told}."
    )
