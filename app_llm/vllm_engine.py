"""vLLM as an `Engine`, through its own AsyncLLM: continuous batching, paged KV cache, prefix caching."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from app_llm import vllm_logs
from app_llm.errors import NoTokenizer, PromptRefused, too_long
from app_llm.generator import Accepted, Piece
from app_llm.hardware import Plan
from app_llm.settings import Settings
from contracts.telemetry import TRACEPARENT_HEADER
from contracts.types import FinishReason, Prompt
from observability.settings import TelemetrySettings

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


class VllmEngine:
    """Made by `start`, which takes 40 s on a small CPU."""

    def __init__(self, llm: AsyncLLM, *, traces: bool = False) -> None:
        # vLLM may only be imported after the environment is set, hence the imports inside functions.
        from vllm.renderers.params import ChatParams

        self._llm = llm
        self._chat_params = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        self._traces = traces
        self._counter = 0
        self.context_tokens: int = llm.model_config.max_model_len
        self.at_once: int = llm.vllm_config.scheduler_config.max_num_seqs

    @classmethod
    async def start(cls, settings: Settings, plan: Plan, traces_endpoint: str | None = None) -> VllmEngine:
        """Boot the engine in its own process. Raises whatever vLLM raises for a model it cannot serve.

        With `traces_endpoint`, vLLM makes a span of each prompt inside the prompt's (see traced.py).
        """
        _set_environment(settings, plan)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=settings.model,
            dtype=cast(Any, plan.dtype),
            max_model_len=settings.context_tokens or None,
            max_num_seqs=plan.max_sequences,
            enforce_eager=not plan.compile,
            gpu_memory_utilization=settings.gpu_memory_fraction,
            enable_prefix_caching=True,
            use_tqdm_on_load=False,
            otlp_traces_endpoint=traces_endpoint,
        )
        # In a thread, so that /healthz and /readyz answer while the model loads.
        llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        return cls(llm, traces=traces_endpoint is not None)

    async def accept(self, prompt: Prompt) -> Accepted:
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        try:
            rendered = await self._render(prompt)
            tokens = len(rendered["prompt_token_ids"])
            if tokens >= self.context_tokens:
                raise too_long(tokens, self.context_tokens)
            wanted = prompt.sampling
            sampling = SamplingParams(
                max_tokens=min(wanted.max_tokens, self.context_tokens - tokens),
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                stop=list(wanted.stop),
                seed=wanted.seed,
                output_kind=RequestOutputKind.DELTA,
            )
        except (VLLMValidationError, ValueError) as exc:
            raise PromptRefused(422, "invalid_prompt", f"vLLM refused the prompt: {exc}") from exc
        self._counter += 1
        # vLLM's ids must be unique; the callers' need not be.
        headers = {TRACEPARENT_HEADER: prompt.traceparent} if self._traces and prompt.traceparent else None
        return Accepted(tokens, self._run(rendered, sampling, f"{prompt.request_id}#{self._counter}", headers))

    async def _render(self, prompt: Prompt) -> Any:
        """Template and tokenise off the event loop, by vLLM's renderer. The window is checked by us, to say by how
        much a prompt is too long."""
        from dataclasses import replace

        renderer = self._llm.renderer
        if prompt.text is not None:
            params = replace(renderer.default_cmpl_tok_params, max_total_tokens=None)
            return (await renderer.render_cmpl_async([{"prompt": prompt.text}], params))[0]
        params = replace(renderer.default_chat_tok_params, max_total_tokens=None)
        messages: list[Any] = [{"role": m.role, "content": m.content} for m in prompt.messages]
        _, rendered = await renderer.render_chat_async([messages], self._chat_params, params)
        return rendered[0]

    async def _run(
        self, rendered: Any, sampling: Any, request_id: str, trace_headers: dict[str, str] | None
    ) -> AsyncGenerator[Piece, None]:
        finished = False
        try:
            async for output in self._llm.generate(rendered, sampling, request_id, trace_headers=trace_headers):
                made = output.outputs[0]
                finished = output.finished
                yield Piece(made.text, len(made.token_ids), _finish_reason(made.finish_reason) if finished else None)
        finally:
            if not finished:
                # AsyncLLM aborts what it has handed out; a request cancelled while being submitted it would leave
                # running, so it is aborted here by its id. Aborting twice is no error.
                await asyncio.shield(self._llm.abort(request_id))

    def tokenizer_json(self) -> str:
        """The model's tokenizer in Hugging Face's tokenizer.json format. Raises NoTokenizer."""
        backend = getattr(self._llm.get_tokenizer(), "backend_tokenizer", None)
        if backend is None:
            raise NoTokenizer("The generator's tokenizer has no fast (tokenizer.json) form.")
        return str(backend.to_str())

    def alive(self) -> bool:
        """False once the engine's process has died, after which vLLM serves nothing."""
        return not self._llm.errored

    def stop(self) -> None:
        """End the engine's process."""
        self._llm.shutdown()


def _finish_reason(reason: str | None) -> FinishReason:
    """vLLM's finish reason as ours. Raises RuntimeError for "error", which ends the prompt as the failure it is."""
    if reason == "error":
        raise RuntimeError("vLLM ended the prompt with an error")
    # "repetition" is vLLM's own way to stop.
    return cast(FinishReason, reason) if reason in ("stop", "length", "abort") else "stop"


def _set_environment(settings: Settings, plan: Plan) -> None:
    """What vLLM and OpenMP read from the environment as they are imported. What the user has set stays."""
    chosen = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "INFO" if settings.log_level == "debug" else "ERROR",
        # The engine's process makes its own handler, from the same settings.
        **vllm_logs.environment(TelemetrySettings()),
        "OMP_NUM_THREADS": str(plan.threads),
    }
    if plan.device == "cpu":
        chosen["VLLM_CPU_KVCACHE_SPACE"] = str(plan.kv_cache_gib)
    if Path(settings.model).is_dir():
        chosen["HF_HUB_OFFLINE"] = "1"
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
