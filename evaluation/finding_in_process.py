"""Asks the gateway's Retriever in this process, until POST /search is there. Dense only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.batching import BatchLimits
from app.main import merging_encoder, network_adapters
from app.retrieval import Retriever
from app.settings import Settings
from evaluation.finding import Finder, Found
from evaluation.stack import Services


@asynccontextmanager
async def in_process(where: Services, collection: str, passages: int) -> AsyncIterator[Finder]:
    settings = Settings(model_url=where.model_url, milvus_uri=where.milvus_uri, collection=collection)
    adapters = network_adapters(settings)
    encoder = merging_encoder(settings, adapters.replicas)
    limits = BatchLimits(settings.search_batch_items, settings.queue_items, settings.search_in_flight)
    retriever = Retriever(encoder, adapters.store, search_limits=limits, min_score=-1)

    class InProcess:
        async def find(self, question: str) -> Found:
            started = time.monotonic()
            found = await retriever.retrieve(question, [], passages)
            seconds = time.monotonic() - started
            return Found(
                tuple(passage.document_id for passage in found.passages),
                tuple(passage.score for passage in found.passages),
                "dense",
                seconds,
            )

    try:
        async with adapters.replicas, encoder.batcher, retriever:
            yield InProcess()
    finally:
        await adapters.close()
