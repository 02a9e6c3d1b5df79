"""What it costs the gateway to be observed: its CPU a streamed token, with everything counted and logged and without.

The gateway without is the same code with metrics, records, spans and logs taken out (benchmarks/bare_gateway.py). The
turns alternate, since the machine's speed drifts by more than what is measured here.
"""

from __future__ import annotations

from benchmarks.chat import chat_bodies
from benchmarks.load.types import Closed, Load
from benchmarks.measures.relay import FIRST_TOKEN_SECONDS, TOKEN_SECONDS, own_microseconds
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Row
from benchmarks.services import bare_gateway, gateway, loki_sink, running, serves_models, simulated_models
from benchmarks.trial import Trial, Trials, attempt
from tests.support.processes import Service, answers_ready

STREAMS = 64
TOKENS = (256, 64)
"""PHAROS_MAX_TOKENS' default, and short answers, for which what is done once for each request weighs more."""
LITTLE = Goal("ratio", "at least", 1 / 1.05)
"""5 % of the gateway's CPU."""
VARIANTS = {"metrics": "metrics", "logs": "metrics and logs", "traces": "metrics, logs and every trace kept"}


def run(options: Options) -> Measured:
    rounds, times = (1, 1) if options.quick else (6, 2)
    found: dict[tuple[str, int], Trials] = {}
    with (
        running(
            simulated_models(
                simulated_first_token_seconds=FIRST_TOKEN_SECONDS,
                simulated_token_seconds=TOKEN_SECONDS,
                simulated_answer_tokens=max(TOKENS),
                simulated_sequences=STREAMS,
            ),
            answers_ready,
        ) as models,
        running(loki_sink()) as sink,
        running(bare_gateway(models.url), serves_models) as bare,
        running(gateway(models.url), serves_models) as metrics,
        running(gateway(models.url, loki_url=sink.url), serves_models) as logs,
        running(
            gateway(models.url, loki_url=sink.url, traces_endpoint=sink.url + "/v1/traces"), serves_models
        ) as traces,
    ):
        gateways = {"bare": bare, "metrics": metrics, "logs": logs, "traces": traces}
        for service in gateways.values():
            _asked(service, 16, 1)
        for tokens in TOKENS:
            trials: dict[str, list[Trial]] = {name: [] for name in gateways}
            for _ in range(rounds):
                for name, service in gateways.items():
                    trials[name].append(_asked(service, tokens, times * max(TOKENS) // tokens))
            found |= {(name, tokens): Trials(some) for name, some in trials.items()}
    return Measured([_row(found, name, tokens) for tokens in TOKENS for name in VARIANTS], [])


def _asked(service: Service, tokens: int, times: int) -> Trial:
    load = Load(
        service.url + "/v1/chat/completions",
        chat_bodies(tokens, stream=True),
        Closed(STREAMS, requests=STREAMS * times),
        stream=True,
        timeout_seconds=300,
    )
    return attempt(load, service)


def _row(found: dict[tuple[str, int], Trials], name: str, tokens: int) -> Row:
    ours, bare = found[name, tokens], found["bare", tokens]
    without = {f"{key} (bare)": seconds for key, seconds in bare.cpu_seconds.items()}
    return Row(
        f"{VARIANTS[name]}, {STREAMS} streams of {tokens} tokens, CPU a token",
        "µs",
        own_microseconds(ours),
        "lower",
        "the bare gateway",
        own_microseconds(bare),
        LITTLE if name != "traces" else None,
        {**ours.cpu_seconds, **without},
        ours.doubts() + bare.doubts("bare"),
    )
