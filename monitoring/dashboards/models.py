"""Dashboard 3: the model service: vLLM, the encoder, the GPU, and the process around them."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from contracts import telemetry as t
from monitoring import thresholds as at
from monitoring.dashboards import foreign as f
from monitoring.dashboards.boards import board, choice
from monitoring.dashboards.encoders import encoder, reranker
from monitoring.dashboards.limits import FIRST_TOKEN, INTER_TOKEN, LAG, PAUSE, STAGE
from monitoring.dashboards.panels import (
    BYTES,
    CELSIUS,
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    SHARE,
    WATTS,
    Limit,
    Panel,
    ask,
    lines,
    number,
    percentiles,
)
from monitoring.dashboards.promql import percentile, rate, series, total

HERE = {"instance": "=~$model_service"}


def models() -> dashboard.Dashboard:
    """The dashboard."""
    return board(
        "pharos-models",
        "Model service and GPU",
        "Is the GPU busy, is it full, and how fast are tokens and vectors made.",
        [
            ("Work in the engine", _engine()),
            ("Memory of the engine", _memory()),
            ("How fast is the engine?", _speed()),
            ("Encoder", encoder(HERE)),
            ("Reranker, where there is one", reranker(HERE)),
            ("GPU", _gpu()),
            ("Process", _process()),
        ],
        variables=[choice("model_service", "Model service", t.PROMPTS_HELD, "instance")],
    )


def _engine() -> list[Panel]:
    return [
        lines(
            "Prompts running and waiting in vLLM",
            "running: in the batch that the GPU works on. waiting: for a place in it, or for KV cache. Some waiting is "
            "a busy GPU; more waiting than running is too few GPUs.",
            COUNT,
            [ask(total(f.VLLM_RUNNING, **HERE), "running"), ask(total(f.VLLM_WAITING, **HERE), "waiting")],
            limit=None,
        ),
        lines(
            "Prompts held by each model service",
            "Prompts accepted and not ended, as a share of those the engine runs at once. Above 100 % some wait.",
            SHARE,
            [
                ask(
                    f"{total(t.PROMPTS_HELD, 'instance', **HERE)} / {total(t.PROMPTS_AT_ONCE, 'instance', **HERE)}",
                    "{{instance}}",
                )
            ],
            limit=Limit(1, 2),
        ),
        lines(
            "How prompts ended",
            "stop: the answer was complete. length: it reached its limit. abort: the caller left. timeout, refused, "
            "error: it did not get that far.",
            PER_SECOND,
            [ask(rate(t.PROMPTS_ENDED, "reason", **HERE), "{{reason}}")],
            limit=None,
            stacked=True,
        ),
    ]


def _memory() -> list[Panel]:
    hits, asked = rate(f.VLLM_PREFIX_HITS, **HERE), rate(f.VLLM_PREFIX_QUERIES, **HERE)
    return [
        lines(
            "KV cache in use",
            "Share of the memory for running prompts. Near 100 % vLLM lets prompts wait, or throws some out and begins "
            "them again.",
            SHARE,
            [ask(f"max by (instance) ({series(f.VLLM_KV_CACHE, **HERE)})", "{{instance}}")],
            limit=Limit(at.SATURATION_HIGH, at.KV_CACHE_FULL),
            top=1,
        ),
        lines(
            "Prompt tokens found in the prefix cache",
            "Share of prompt tokens that vLLM had computed before, and need not again: the same instructions, the same "
            "passages. More is better; new questions over new passages have few.",
            SHARE,
            [ask(f"{hits} / {asked}", "found")],
            limit=None,
            top=1,
        ),
        lines(
            "Preemptions",
            "Prompts thrown out of the batch for want of KV cache, to begin again later. Lasting ones mean too many "
            "prompts at once for this GPU's memory.",
            PER_SECOND,
            [ask(rate(f.VLLM_PREEMPTIONS, **HERE), "preemptions")],
            limit=Limit(at.PREEMPTIONS_PER_SECOND / 10, at.PREEMPTIONS_PER_SECOND),
        ),
    ]


def _speed() -> list[Panel]:
    return [
        lines(
            "Time to the first token, in vLLM",
            "From a prompt's arrival in the engine to its first token. The gateway's own adds what comes before: "
            "queue, encode, search.",
            SECONDS,
            percentiles(f.VLLM_FIRST_TOKEN, where=HERE),
            limit=FIRST_TOKEN,
        ),
        lines(
            "Pause between two tokens, in vLLM",
            "Grows with the number of prompts that run at once.",
            SECONDS,
            percentiles(f.VLLM_INTER_TOKEN, where=HERE),
            limit=INTER_TOKEN,
        ),
        lines(
            "Wait inside vLLM",
            "How long prompts waited in the engine before it began with them.",
            SECONDS,
            percentiles(f.VLLM_QUEUE, where=HERE),
            limit=STAGE,
        ),
        lines(
            "Tokens a second, in vLLM",
            "prompt: read. generated: written. Together they are what the GPU does.",
            PER_SECOND,
            [
                ask(rate(f.VLLM_PROMPT_TOKENS, **HERE), "prompt"),
                ask(rate(f.VLLM_GENERATION_TOKENS, **HERE), "generated"),
            ],
            limit=None,
        ),
        lines(
            "Tokens a second, by model service",
            "Tokens made for answers, whichever engine runs.",
            PER_SECOND,
            [ask(rate(t.LLM_TOKENS, "instance", **HERE), "{{instance}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "Tokens a second, as the gateways see them",
            "prompt: of the prompts that were answered. received: of the answers. Received below what is made are "
            "answers whose callers left.",
            PER_SECOND,
            [ask(rate(t.PROMPT_TOKENS), "prompt"), ask(rate(t.GENERATION_TOKENS), "received")],
            limit=None,
        ),
    ]


def _gpu() -> list[Panel]:
    return [
        lines(
            "GPU busy",
            "Share of time in which anything ran on the GPU (NVML). Low while prompts wait: something other than the "
            "GPU is the limit.",
            SHARE,
            [ask(f"max by (instance, gpu) ({series(t.GPU_UTILISATION, **HERE)})", "{{instance}} GPU {{gpu}}")],
            limit=None,
            span=5,
            top=1,
        ),
        lines(
            "GPU memory in use",
            "Weights, KV cache and the rest, as a share of what there is. vLLM takes its part at the start, so that "
            "this hardly moves.",
            SHARE,
            [
                ask(
                    f"max by (instance, gpu) ({series(t.GPU_MEMORY_USED, **HERE)} / "
                    f"{series(t.GPU_MEMORY_TOTAL, **HERE)})",
                    "{{instance}} GPU {{gpu}}",
                )
            ],
            limit=Limit(at.SATURATION_FULL, 0.99),
            span=5,
            top=1,
        ),
        lines(
            "GPU power",
            "What the GPU draws: the truest sign of how hard it works.",
            WATTS,
            [ask(f"max by (instance, gpu) ({series(t.GPU_POWER, **HERE)})", "{{instance}} GPU {{gpu}}")],
            limit=None,
            span=5,
        ),
        lines(
            "GPU temperature",
            "From NVIDIA's own exporter, where compose started it. Near its limit the GPU slows itself down.",
            CELSIUS,
            [ask(f"max by (gpu) ({series(f.DCGM_TEMPERATURE)})", "GPU {{gpu}}")],
            limit=Limit(at.GPU_CELSIUS_HIGH, at.GPU_CELSIUS_BAD),
            span=5,
        ),
        number(
            "Last GPU driver error",
            "Number of the last Xid error of any GPU; 0: none. NVIDIA's list of Xid errors says what each means.",
            RATIO,
            ask(f"max({series(f.DCGM_XID_ERRORS)})"),
            limit=Limit(1, 1),
            decimals=0,
        ),
    ]


def _process() -> list[Panel]:
    here = {"job": t.APP_LLM, **HERE}
    return [
        lines(
            "Processor use",
            "Processors' worth of work of each model service. On a CPU this is the engine itself.",
            SHARE,
            [ask(rate(f.CPU_SECONDS, "instance", **here), "{{instance}}")],
            limit=None,
            span=6,
        ),
        lines(
            "Memory",
            "Main memory of each model service.",
            BYTES,
            [ask(total(f.RESIDENT_BYTES, "instance", **here), "{{instance}}")],
            limit=None,
            span=6,
        ),
        lines(
            "Event loop lag",
            "How late the service gets to work that is due. While it lags, no token leaves it.",
            SECONDS,
            percentiles(t.EVENT_LOOP_LAG, where=here),
            limit=LAG,
            span=6,
        ),
        lines(
            "Pauses for garbage collection",
            "p99 of Python's pauses, by generation: in each the service does nothing else.",
            SECONDS,
            [ask(percentile(0.99, t.GC_PAUSE, "generation", **here), "generation {{generation}} p99")],
            limit=PAUSE,
            span=6,
        ),
    ]
