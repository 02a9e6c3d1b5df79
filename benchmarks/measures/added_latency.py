"""What the gateway adds to a request at half its capacity, beyond what the model takes.

The engine waits 50 ms and then says everything at once. The same requests, at the same Poisson times, go straight to
it and through the gateway, in turns; for whole answers the difference of the percentiles is what the gateway adds (the
gateway submits prompts in batches, which spares the model service work, so that it may even be negative). For first
tokens of streams it is what they take beyond the engine's 50 ms, the model service's own part included. LiteLLM the
same way, at half of its own capacity, before the simulated OpenAI server.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

from benchmarks.chat import BODIES, chat_bodies
from benchmarks.load.types import Closed, Load, Open
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Plot, Row, Series
from benchmarks.services import answers_ok, gateway, litellm, running, serves_models, simulated_models, upstream
from benchmarks.trial import Trial, Trials, attempt
from tests.support.processes import Service, answers_ready

ENGINE_SECONDS = 0.05
TOKENS = 16
AT_ONCE = 128
GOALS_MS = {"p50": 2.0, "p95": 5.0, "p99": 10.0}
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Relay:
    """One side: milliseconds added at each percentile, to whole answers and to first tokens."""

    per_second: float
    streams_per_second: float
    whole: dict[str, float]
    first_token: dict[str, float]
    cpu_seconds: dict[str, float]
    doubts: list[str]


def run(options: Options) -> Measured:
    with (
        running(_engine(), answers_ready) as models,
        running(gateway(models.url), serves_models) as front,
    ):
        straight = (models.url + "/generate", _generate_bodies())
        ours = _measure(front, models, straight, options)
    with (
        running(upstream(ENGINE_SECONDS, 0)) as server,
        running(litellm(server.url), answers_ok("/health/liveliness")) as proxy,
    ):
        straight = (server.url + CHAT, chat_bodies(TOKENS, stream=False))
        theirs = _measure(proxy, server, straight, options)
    rows = [
        *_rows("a whole answer", ours.whole, theirs.whole, ours, theirs),
        *_rows("the first streamed token", ours.first_token, theirs.first_token, ours, theirs),
    ]
    bars = [Series("Pharos", ours.whole), Series("LiteLLM", theirs.whole)]
    return Measured(rows, [Plot("latency", "Added to a whole answer at half load", "ms", bars, logarithmic=True)])


def _engine() -> Service:
    return simulated_models(
        simulated_first_token_seconds=ENGINE_SECONDS,
        simulated_token_seconds=0,
        simulated_answer_tokens=TOKENS,
        simulated_sequences=1024,
    )


def _generate_bodies() -> list[str]:
    """The chat requests as app_llm takes them."""
    return [
        json.dumps(
            {
                "prompts": [
                    {
                        "request_id": f"q{i}",
                        "messages": [{"role": "user", "content": f"Question {i}: what is new in the documents?"}],
                        "max_tokens": TOKENS,
                    }
                ]
            }
        )
        for i in range(BODIES)
    ]


def _measure(relay: Service, engine: Service, straight: tuple[str, list[str]], options: Options) -> Relay:
    seconds, rounds = (3, 1) if options.quick else (8, 3)
    whole_bodies, stream_bodies = chat_bodies(TOKENS, stream=False), chat_bodies(TOKENS, stream=True)

    def capacity(url: str, bodies: list[str], *, stream: bool = False) -> float:
        flood = Load(url, bodies, Closed(AT_ONCE, seconds=seconds), stream=stream)
        attempt(flood)
        return attempt(flood).outcome.per_second

    # Of the slower of the two: asked prompt by prompt the engine may do less than behind a gateway that batches, and
    # what is compared must not wait in a queue of its own making.
    alone = capacity(*straight)
    half = min(alone, capacity(relay.url + CHAT, whole_bodies)) / 2
    half_streamed = min(alone, capacity(relay.url + CHAT, stream_bodies, stream=True)) / 2
    direct: list[Trial] = []
    whole: list[Trial] = []
    streamed: list[Trial] = []
    for seed in range(rounds):
        arrivals = Open(half, seconds, seed=seed)
        direct.append(attempt(Load(*straight, arrivals), engine))
        whole.append(attempt(Load(relay.url + CHAT, whole_bodies, arrivals), relay, engine))
        arrivals = Open(half_streamed, seconds, seed=seed)
        streamed.append(attempt(Load(relay.url + CHAT, stream_bodies, arrivals, stream=True), relay, engine))
    base, through, first = Trials(direct), Trials(whole), Trials(streamed)
    return Relay(
        half,
        half_streamed,
        _added(through, base),
        {
            name: 1000 * (first.median(lambda outcome, name=name: getattr(outcome.first_token, name)) - ENGINE_SECONDS)  # type: ignore[misc]
            for name in GOALS_MS
        },
        through.cpu_seconds,
        base.doubts(f"straight to {engine.name}")
        + through.doubts(relay.name)
        + first.doubts(f"{relay.name}, streamed"),
    )


def _added(through: Trials, base: Trials) -> dict[str, float]:
    """Milliseconds at each percentile: the median over the rounds of what the same arrivals took longer."""
    pairs = list(zip(through.trials, base.trials, strict=True))
    return {
        name: 1000
        * statistics.median(
            getattr(relayed.outcome.latency["200"], name) - getattr(direct.outcome.latency["200"], name)
            for relayed, direct in pairs
        )
        for name in GOALS_MS
    }


def _rows(what: str, us: dict[str, float], them: dict[str, float], ours: Relay, theirs: Relay) -> list[Row]:
    note = (
        f"Half load is {ours.per_second:,.0f} requests/s for Pharos ({ours.streams_per_second:,.0f} streamed) and "
        f"{theirs.per_second:,.0f} ({theirs.streams_per_second:,.0f}) for LiteLLM; "
        f"the engine takes {ENGINE_SECONDS * 1000:.0f} ms for {TOKENS} tokens."
    )
    return [
        Row(
            f"{name} added to {what}",
            "ms",
            us[name],
            "lower",
            "LiteLLM",
            them[name],
            Goal("value", "at most", bound),
            {**ours.cpu_seconds, **{k: s for k, s in theirs.cpu_seconds.items() if k == "litellm"}},
            ours.doubts + theirs.doubts,
            note,
        )
        for name, bound in GOALS_MS.items()
    ]
