"""The models of this service: loaded in the background, warmed up, and only then ready."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.batching import BatchLimits
from app.merging import MergingEncoder
from app_llm.encoder import LocalEncoder, SentenceTransformerEncoder
from app_llm.errors import NotReady
from app_llm.generator import BatchedGenerator, Engine, HoldingGenerator
from app_llm.hardware import plan_for_this_machine
from app_llm.instrumented import InstrumentedEncoder, InstrumentedGenerator, Metrics
from app_llm.settings import Settings
from app_llm.traced import TracedEncoder, TracedGenerator, vllm_joins
from contracts.ports import Encoder
from contracts.types import Message, ModelCard, Prompt, Sampling
from observability.settings import OFF, TelemetrySettings
from observability.tracing import Tracing

log = logging.getLogger(__name__)


class StoppableEngine(Engine, Protocol):
    """An engine with a tokenizer and an end."""

    context_tokens: int

    def tokenizer_json(self) -> str: ...

    def alive(self) -> bool: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the routes serve from."""

    card: ModelCard
    encoder: Encoder
    generator: HoldingGenerator
    encoder_tokenizer: str
    generator_tokenizer: str
    engine_alive: Callable[[], bool]


class Models:
    """`load` once, `close` at the end; `loaded` in between raises NotReady until the warm-up is over."""

    def __init__(
        self, settings: Settings, metrics: Metrics, telemetry: TelemetrySettings = OFF, tracing: Tracing | None = None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._telemetry = telemetry
        self._tracing = tracing or Tracing()
        self._loaded: Loaded | None = None
        self._exit = AsyncExitStack()

    @property
    def loaded(self) -> Loaded:
        if self._loaded is None:
            raise NotReady("The models are still loading; try again in a moment.")
        if not self._loaded.engine_alive():
            raise NotReady("The engine has died; the model service must be restarted.")
        return self._loaded

    async def load(self) -> None:
        """Load and warm up both models. Raises what their libraries raise."""
        settings = self._settings
        started = time.monotonic()
        local_encoder, engine = await self._start()
        limits = BatchLimits(
            batch_items=settings.encoder_queue_calls,
            queue_items=settings.encoder_queue_calls,
            batch_cost=settings.encoder_merge_texts,
        )
        encoder = MergingEncoder(
            InstrumentedEncoder(local_encoder, self._metrics),
            slice_texts=settings.encoder_batch_texts,
            limits=limits,
            watch=self._metrics.encoding,
        )
        await self._exit.enter_async_context(encoder.batcher)
        batched = BatchedGenerator(engine, settings.served_generate_prompts)
        self._metrics.watch(batched, encoder)
        generator = InstrumentedGenerator(batched, self._metrics)
        log.info("warming up")
        await encoder.encode(["A first text, so that the first user does not wait for lazy initialisation."])
        hello = Prompt("warm-up", (Message("user", "Say hello."),), sampling=Sampling(max_tokens=4))
        async for _ in generator.generate([hello]):
            pass
        card = ModelCard(
            encoder=_name(settings.encoder_model) if settings.encoder != "hash" else "hash",
            dimension=local_encoder.dimension,
            encoder_window=local_encoder.window,
            generator=_name(settings.model) if settings.engine != "simulated" else "simulated",
            context_window=engine.context_tokens,
            engine=settings.engine,
        )
        self._loaded = Loaded(
            card,
            TracedEncoder(encoder, self._tracing, card.encoder) if self._tracing.on else encoder,
            TracedGenerator(generator, self._tracing, card.generator) if self._tracing.on else generator,
            local_encoder.tokenizer_json(),
            engine.tokenizer_json(),
            engine.alive,
        )
        log.info("ready after %.0f s: %s and %s", time.monotonic() - started, card.encoder, card.generator)

    async def _start(self) -> tuple[LocalEncoder, StoppableEngine]:
        settings = self._settings
        if settings.encoder == "hash" and settings.engine == "simulated":
            return _hash_encoder(settings), _simulated_engine(settings)
        plan = await asyncio.to_thread(plan_for_this_machine, settings)
        log.info("this machine: %s", plan)
        engine: StoppableEngine
        if settings.engine == "vllm":
            from app_llm.vllm_engine import VllmEngine

            # vLLM first: it sets the environment that OpenMP reads when torch first computes.
            log.info("starting vLLM with %s (under a minute on a small CPU, unless the model is large)", settings.model)
            with vllm_joins(self._tracing, self._telemetry) as traces_endpoint:
                engine = await VllmEngine.start(settings, plan, traces_endpoint)
            self._exit.callback(engine.stop)
        else:
            engine = _simulated_engine(settings)
        encoder: LocalEncoder
        if settings.encoder == "sentence-transformers":
            log.info("loading the encoder %s", settings.encoder_model)
            encoder = await SentenceTransformerEncoder.load(
                settings.encoder_model, plan.encoder_device, plan.threads, settings.encoder_batch_texts
            )
        else:
            encoder = _hash_encoder(settings)
        return encoder, engine

    async def close(self) -> None:
        """Drain the encoder and end the engine's process."""
        self._loaded = None
        await self._exit.aclose()


def _hash_encoder(settings: Settings) -> LocalEncoder:
    from app_llm.simulated import HashEncoder

    return HashEncoder(settings.simulated_dimension)


def _simulated_engine(settings: Settings) -> StoppableEngine:
    from app_llm.simulated import SimulatedEngine

    return SimulatedEngine(settings)


def _name(model: str) -> str:
    """A folder by its name, a Hugging Face id as it is."""
    return Path(model).name if Path(model).is_dir() else model
