"""Three times as many requests as can be served: does what is admitted still get through, and is the rest told at once?

Capacity is measured just before, by twice as many callers as the engine has slots, each asking again when it is
answered, so that no slot is ever idle.
"""

from __future__ import annotations

from benchmarks.chat import chat_bodies
from benchmarks.load.percentiles import Spread
from benchmarks.load.types import Closed, Load, Open
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Row
from benchmarks.services import gateway, running, serves_models, simulated_models
from benchmarks.trial import Trials, attempt
from tests.support.processes import answers_ready

SLOTS = 32
TOKENS = 20
TIMES = 3
QUEUE_SECONDS = 1.0
"""Longer waits are refused; with the default of 20 s a short flood would only fill the queue."""
GOODPUT = Goal("ratio", "at least", 0.95)
REFUSAL_MS = Goal("value", "at most", 20.0)


def run(options: Options) -> Measured:
    seconds = 5 if options.quick else 30
    with (
        running(
            simulated_models(
                simulated_first_token_seconds=0.05,
                simulated_token_seconds=0.01,
                simulated_answer_tokens=TOKENS,
                simulated_sequences=SLOTS,
            ),
            answers_ready,
        ) as models,
        running(gateway(models.url, queue_seconds=QUEUE_SECONDS), serves_models) as front,
    ):
        url, bodies = front.url + "/v1/chat/completions", chat_bodies(TOKENS, stream=False)
        attempt(Load(url, bodies, Closed(SLOTS * 2, seconds=1)))
        before = Trials([attempt(Load(url, bodies, Closed(SLOTS * 2, seconds=seconds)), front, models)])
        capacity = before.median(lambda outcome: outcome.per_second)
        flood = Load(url, bodies, Open(capacity * TIMES, seconds))
        flooded = Trials([attempt(flood, front, models)])
    outcome = flooded.trials[0].outcome
    doubts = before.doubts("capacity") + flooded.doubts(failures_allowed=True)
    strange = {status: spread.count for status, spread in outcome.latency.items() if status not in ("200", "503")}
    if strange:
        doubts.append(f"answers that are neither 200 nor 503: {strange}")
    refused = outcome.latency.get("503", Spread())
    admitted = outcome.latency.get("200", Spread())
    cpu = flooded.cpu_seconds
    note = (
        f"{outcome.requests:,} requests in {seconds} s: {outcome.answered:,} answered, {refused.count:,} refused. "
        f"The engine runs {SLOTS} prompts at once and takes 240 ms for each; PHAROS_QUEUE_SECONDS is {QUEUE_SECONDS:g}."
    )
    return Measured(
        [
            Row(
                "answers a second, against the capacity",
                "answers/s",
                outcome.per_second,
                "higher",
                "capacity",
                capacity,
                GOODPUT,
                cpu,
                doubts,
                note,
            ),
            Row("p99 of a refusal", "ms", refused.p99 * 1000, "lower", goal=REFUSAL_MS, doubts=doubts)
            if refused.count
            else Row("p99 of a refusal", "ms", None, "lower", goal=REFUSAL_MS, note="nothing was refused"),
            Row("p99 of an admitted answer", "ms", admitted.p99 * 1000, "lower", doubts=doubts),
        ]
    )
