"""What it costs a gateway to pass a token on: its CPU microseconds a token, streams of 10 ms a token.

Everyone relays the same schedule: ours from app_llm's simulated engine, the others from the simulated OpenAI server.
That server alone is the floor: uvicorn and one `send` a token. Only the relay's own CPU counts, not the model's. A
relay that cannot keep up may send several tokens in a chunk, so tokens are counted by the words that arrive.
"""

from __future__ import annotations

from benchmarks.chat import chat_bodies
from benchmarks.load.types import Closed, Load
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Plot, Row, Series
from benchmarks.services import (
    answers_ok,
    gateway,
    litellm,
    running,
    serves_models,
    simulated_models,
    upstream,
    vllm_router,
)
from benchmarks.trial import Trial, Trials, attempt
from tests.support.processes import Service, answers_ready

STREAMS = (64, 256)
TOKEN_SECONDS = 0.01
FIRST_TOKEN_SECONDS = 0.05
MICROSECONDS = Goal("value", "at most", 40.0)
OF_LITELLM = Goal("ratio", "at least", 25.0)
LITELLM_TOKENS = 256
"""It makes 1,400 tokens/s: longer streams would take minutes and say the same."""


def run(options: Options) -> Measured:
    tokens, rounds = (256, 1) if options.quick else (512, 3)
    found: dict[tuple[str, int], Trials] = {}
    with running(upstream(FIRST_TOKEN_SECONDS, TOKEN_SECONDS)) as floor:
        with (
            running(_models(tokens), answers_ready) as models,
            running(gateway(models.url), serves_models) as ours,
            running(vllm_router(floor.url), answers_ok("/health")) as router,
        ):
            for streams in STREAMS:
                trials: dict[str, list[Trial]] = {"ours": [], "floor": [], "router": []}
                for _ in range(rounds):
                    trials["ours"].append(_relayed(ours, streams, tokens))
                    trials["floor"].append(_relayed(floor, streams, tokens))
                    trials["router"].append(_relayed(router, streams, tokens))
                found |= {(name, streams): Trials(some) for name, some in trials.items()}
        with running(litellm(floor.url), answers_ok("/health/liveliness")) as proxy:
            _relayed(proxy, 4, 16)
            for streams in STREAMS:
                fewer = 64 if options.quick else LITELLM_TOKENS
                found["litellm", streams] = Trials([_relayed(proxy, streams, fewer)])
    rows = [row for streams in STREAMS for row in _rows(found, streams)]
    names = {"floor": "floor (uvicorn)", "router": "vllm-router (Rust)", "ours": "Pharos", "litellm": "LiteLLM"}
    labels = {streams: f"{streams} streams" for streams in STREAMS}
    bars = [
        Series(shown, {labels[streams]: own_microseconds(found[name, streams]) for streams in STREAMS})
        for name, shown in names.items()
    ]
    plot = Plot("relay", "CPU of the relay for one streamed token", "µs", bars, logarithmic=True)
    return Measured(rows, [plot])


def _models(tokens: int) -> Service:
    return simulated_models(
        simulated_first_token_seconds=FIRST_TOKEN_SECONDS,
        simulated_token_seconds=TOKEN_SECONDS,
        simulated_answer_tokens=tokens,
        simulated_sequences=max(STREAMS),
    )


def _relayed(relay: Service, streams: int, tokens: int) -> Trial:
    load = Load(
        relay.url + "/v1/chat/completions",
        chat_bodies(tokens, stream=True),
        Closed(streams, requests=streams),
        stream=True,
        timeout_seconds=300,
    )
    return attempt(load, relay)


def own_microseconds(trials: Trials) -> float:
    """The relay's own CPU a token that arrived."""
    own = sum(seconds for name, seconds in trials.cpu_seconds.items() if name != "generator")
    return own / max(1, trials.tokens) * 1e6


def _rows(found: dict[tuple[str, int], Trials], streams: int) -> list[Row]:
    ours = found["ours", streams]
    doubts = ours.doubts()
    spent = own_microseconds(ours)

    def against(name: str, peer: str, goal: Goal | None) -> Row:
        trials = found[name, streams]
        theirs = {f"generator for {peer}" if key == "generator" else key: s for key, s in trials.cpu_seconds.items()}
        return Row(
            f"{streams} streams, CPU a token, against {peer}",
            "µs",
            spent,
            "lower",
            peer,
            own_microseconds(trials),
            goal,
            {**ours.cpu_seconds, **theirs},
            doubts + trials.doubts(peer),
        )

    def delivered(trials: Trials) -> float:
        return trials.median(lambda outcome: outcome.tokens_per_second)

    return [
        against("floor", "the floor", MICROSECONDS),
        against("router", "vllm-router", None),
        against("litellm", "LiteLLM", OF_LITELLM),
        Row(
            f"{streams} streams, tokens delivered",
            "tokens/s",
            delivered(ours),
            "higher",
            "LiteLLM",
            delivered(found["litellm", streams]),
            doubts=doubts,
            note=f"With {streams} streams ours sent {ours.tokens / max(1, ours.chunks):.2f} tokens a chunk; the floor "
            f"delivered {delivered(found['floor', streams]):,.0f} tokens/s and vllm-router "
            f"{delivered(found['router', streams]):,.0f}.",
        ),
    ]
