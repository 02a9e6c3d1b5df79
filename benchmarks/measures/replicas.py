"""Four model services behind one gateway against one: tokens a second.

The engines are simulated and hold few prompts, so that two cores have enough for all of them.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.chat import chat_bodies
from benchmarks.load.types import Closed, Load
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Row
from benchmarks.services import gateway, running, serves_models, simulated_models
from benchmarks.trial import Trials, attempt
from tests.support.processes import answers_ready

REPLICAS = 4
SLOTS = 8
TOKENS = 128
TIMES = Goal("ratio", "at least", 3.8)


def run(options: Options) -> Measured:
    requests, rounds = (4, 1) if options.quick else (10, 3)
    bodies = chat_bodies(TOKENS, stream=True)
    one, all_of_them = [], []
    with ExitStack() as stack:
        models = [
            stack.enter_context(
                running(
                    simulated_models(
                        f"app_llm-{i}",
                        simulated_first_token_seconds=0.01,
                        simulated_token_seconds=0.01,
                        simulated_answer_tokens=TOKENS,
                        simulated_sequences=SLOTS,
                    ),
                    answers_ready,
                )
            )
            for i in range(REPLICAS)
        ]
        single = stack.enter_context(running(gateway(models[0].url), serves_models))
        front = stack.enter_context(running(gateway(",".join(m.url for m in models)), serves_models))

        def load(url: str, slots: int) -> Load:
            arrivals = Closed(slots, requests=slots * requests)
            return Load(url + "/v1/chat/completions", bodies, arrivals, stream=True)

        attempt(load(front.url, SLOTS))
        for _ in range(rounds):
            one.append(attempt(load(single.url, SLOTS), single))
            all_of_them.append(attempt(load(front.url, SLOTS * REPLICAS), front))
    alone, together = Trials(one), Trials(all_of_them)
    busy = together.cpu_seconds["app"] / sum(trial.outcome.wall_seconds for trial in all_of_them)
    row = Row(
        f"{REPLICAS} replicas against one",
        "tokens/s",
        together.median(lambda outcome: outcome.tokens_per_second),
        "higher",
        "one",
        alone.median(lambda outcome: outcome.tokens_per_second),
        TIMES,
        together.cpu_seconds,
        alone.doubts("one") + together.doubts(),
        f"The gateway used {busy:.0%} of a core before {REPLICAS} replicas of {SLOTS} prompts each.",
    )
    return Measured([row])
