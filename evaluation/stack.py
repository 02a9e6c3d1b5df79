"""What an evaluation runs against: services of its own (real encoder, Milvus Lite, gateway), or running ones.

Milvus' folder outlives the run, so that a corpus is encoded once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from contracts import analysis
from contracts import collection as schema
from contracts.analysis import Language
from contracts.types import ModelCard
from evaluation.configured import encoder_of
from evaluation.sets import EvaluationSet
from setup_milvus.ingest import DependencyDown, Ingestion
from setup_milvus.settings import Settings as SetupSettings
from setup_milvus.store import ManifestMismatch
from tests.support import processes
from tests.support.processes import Service

FOLDER = Path("volumes/evaluation")
START_SECONDS = 300


class StackError(Exception):
    """A service does not do what the evaluation needs; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Services:
    """Where the model service and Milvus are."""

    model_url: str
    milvus_uri: str

    def card(self) -> ModelCard:
        """What the model service serves. Raises StackError."""
        try:
            response = httpx.get(self.model_url + "/models", timeout=30, trust_env=False)
            response.raise_for_status()
        except httpx.HTTPError as exc:
            raise StackError(f"the model service at {self.model_url} does not answer: {exc}") from exc
        return msgspec.json.decode(response.content, type=ModelCard)


@contextmanager
def services(model_url: str | None, milvus_uri: str | None, *, engine: str) -> Iterator[Services]:
    """Running ones where they are given, else some of our own until the end of the block."""
    with ExitStack() as stack:
        if milvus_uri is None:
            lite = processes.milvus_lite(FOLDER / "milvus-lite", _log("milvus-lite"))
            milvus_uri = stack.enter_context(running(lite, processes.listens)).url
        if model_url is None:
            models = processes.model_service(_log("app_llm"), engine=engine, encoder="sentence-transformers")
            model_url = stack.enter_context(running(models, processes.answers_ready)).url
        yield Services(model_url, milvus_uri)


@contextmanager
def gateway(services: Services, collection: str, **settings: object) -> Iterator[str]:
    """A gateway over the collection; its URL. `settings` are PHAROS_* in lower case."""
    front = processes.gateway(_log("app"), services.model_url, services.milvus_uri, collection=collection, **settings)
    with running(front, processes.answers_ready) as service:
        yield service.url


async def ingested(where: Services, chosen: EvaluationSet, language: Language | None, *, recreate: bool = False) -> str:
    """The name of the collection that holds the set, all of it. What is stored already is not encoded again.

    `language` is that of the documents; by default what the set says, else what is configured. The name says all that
    the passages depend on: corpus, encoder, chunking, terms. Raises StackError.
    """
    base = SetupSettings(model_url=where.model_url, milvus_uri=where.milvus_uri)
    language = language_of(chosen, language)
    parts = [
        "eval",
        chosen.name,
        chosen.fingerprint(),
        encoder_of(where.card()),
        str(base.chunk_tokens),
        str(base.chunk_overlap_tokens),
        f"{language}{analysis.REVISION}",
        f"schema{schema.SCHEMA}",
    ]
    name = re.sub(r"\W", "_", "_".join(parts), flags=re.ASCII)[:200]
    settings = base.model_copy(update={"collection": name, "analyzer_language": language})
    try:
        outcome = await Ingestion(settings).run(chosen.dataset(), recreate=recreate)
    except (DependencyDown, ManifestMismatch) as exc:
        raise StackError(str(exc)) from exc
    if not outcome.complete:
        raise StackError(f"{chosen.name} was not stored completely: {outcome.stored} of {dict(outcome.expected)}")
    return name


def language_of(chosen: EvaluationSet, language: Language | None) -> Language:
    """Of the set's documents: this one, by default what the set says, else what is configured."""
    return Language(language or chosen.language or SetupSettings().analyzer_language)


@contextmanager
def running(service: Service, ready: Callable[[Service], bool]) -> Iterator[Service]:
    """Start it, and end it after the block. Raises StackError with the last line of its log."""
    try:
        try:
            service.start(ready, seconds=START_SECONDS)
        except AssertionError as exc:
            why = next((line for line in reversed(service.tail().splitlines()) if line.strip()), "it said nothing")
            raise StackError(f"{service.name} does not start ({service.log}): {why.strip()}") from exc
        yield service
    finally:
        service.stop()


def _log(name: str) -> Path:
    folder = FOLDER / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"
