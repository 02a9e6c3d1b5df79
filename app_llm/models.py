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
from app.merging import MergingEncoder, MergingReranker
from app_llm.encoder import LocalEncoder, SentenceTransformerEncoder
from app_llm.errors import NotReady
from app_llm.generator import BatchedGenerator, Engine, HoldingGenerator
from app_llm.graphs.models import GraphEncoder, GraphReranker
from app_llm.graphs.packages import require
from app_llm.hardware import Plan, plan_for_this_machine
from app_llm.instrumented import InstrumentedEncoder, InstrumentedGenerator, InstrumentedReranker, Metrics
from app_llm.reranker import CrossEncoderReranker
from app_llm.settings import Settings
from app_llm.traced import TracedEncoder, TracedGenerator, TracedReranker, vllm_joins
from contracts.ports import Encoder, Reranker
from contracts.types import Message, ModelCard, Pair, Prompt, Sampling
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
    reranker: Reranker | None
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
        """Load and warm up every model. Raises what their libraries raise."""
        settings = self._settings
        started = time.monotonic()
        local_encoder, local_reranker, engine = await self._start()
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
        reranker = None if local_reranker is None else await self._merging(local_reranker)
        batched = BatchedGenerator(engine, settings.served_generate_prompts)
        self._metrics.watch(batched, encoder, reranker)
        generator = InstrumentedGenerator(batched, self._metrics)
        log.info("warming up")
        await encoder.encode(["A first text, so that the first user does not wait for lazy initialisation."])
        if reranker is not None:
            await reranker.rerank([Pair("A first question?", "A first text.")])
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
            reranker="" if reranker is None else _reranker_name(settings),
            encoder_backend=settings.encoder_backend if settings.encoder != "hash" else "hash",
        )
        self._loaded = Loaded(
            card,
            TracedEncoder(encoder, self._tracing, card.encoder) if self._tracing.on else encoder,
            TracedReranker(reranker, self._tracing, card.reranker) if self._tracing.on and reranker else reranker,
            TracedGenerator(generator, self._tracing, card.generator) if self._tracing.on else generator,
            local_encoder.tokenizer_json(),
            engine.tokenizer_json(),
            engine.alive,
        )
        served = ", ".join(name for name in (card.encoder, card.reranker, card.generator) if name)
        log.info("ready after %.0f s: %s", time.monotonic() - started, served)

    async def _merging(self, reranker: Reranker) -> MergingReranker:
        settings = self._settings
        merging = MergingReranker(
            InstrumentedReranker(reranker, self._metrics),
            # Not the forward pass' size: each question comes with as many pairs as the others, and first come, first
            # served ends half of them earlier than taking turns does.
            slice_pairs=settings.reranker_merge_pairs,
            limits=BatchLimits(
                batch_items=settings.reranker_queue_calls,
                queue_items=settings.reranker_queue_calls,
                batch_cost=settings.reranker_merge_pairs,
            ),
            watch=self._metrics.reranking,
        )
        await self._exit.enter_async_context(merging.batcher)
        return merging

    async def _start(self) -> tuple[LocalEncoder, Reranker | None, StoppableEngine]:
        settings = self._settings
        if settings.encoder == "hash" and settings.engine == "simulated" and not _needs_model(settings):
            return _hash_encoder(settings), _overlap_reranker(settings), _simulated_engine(settings)
        # Before vLLM, which takes its time.
        for backend in (settings.encoder_backend, settings.reranker_backend):
            require(backend)
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
        return await self._encoder(plan), await self._reranker(plan), engine

    async def _encoder(self, plan: Plan) -> LocalEncoder:
        settings = self._settings
        if settings.encoder == "hash":
            return _hash_encoder(settings)
        name, backend, batch = settings.encoder_model, settings.encoder_backend, settings.encoder_batch_texts
        log.info("loading the encoder %s (%s)", name, backend)
        if backend == "torch":
            return await SentenceTransformerEncoder.load(name, plan.encoder_device, plan.threads, batch)
        return await GraphEncoder.load(name, backend, plan.threads, batch)

    async def _reranker(self, plan: Plan) -> Reranker | None:
        settings = self._settings
        if not _needs_model(settings):
            return _overlap_reranker(settings)
        name, backend, batch = settings.reranker_model, settings.reranker_backend, settings.reranker_batch_pairs
        log.info("loading the reranker %s (%s)", name, backend)
        if backend == "torch":
            return await CrossEncoderReranker.load(name, plan.reranker_device, plan.threads, batch)
        return await GraphReranker.load(name, backend, plan.threads, batch)

    async def close(self) -> None:
        """Drain the encoder and end the engine's process."""
        self._loaded = None
        await self._exit.aclose()


def _hash_encoder(settings: Settings) -> LocalEncoder:
    from app_llm.simulated import HashEncoder

    return HashEncoder(settings.simulated_dimension)


def _needs_model(settings: Settings) -> bool:
    """Whether a cross-encoder is to be loaded."""
    return settings.reranker == "cross-encoder" and bool(settings.reranker_model)


def _overlap_reranker(settings: Settings) -> Reranker | None:
    from app_llm.simulated import OverlapReranker

    return OverlapReranker() if settings.reranker == "overlap" else None


def _reranker_name(settings: Settings) -> str:
    return "overlap" if settings.reranker == "overlap" else _name(settings.reranker_model)


def _simulated_engine(settings: Settings) -> StoppableEngine:
    from app_llm.simulated import SimulatedEngine

    return SimulatedEngine(settings)


def _name(model: str) -> str:
    """A folder by its name, a Hugging Face id as it is."""
    return Path(model).name if Path(model).is_dir() else model
