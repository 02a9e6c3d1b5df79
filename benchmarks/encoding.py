"""What both measures of encoding share: sentences, requests, and the services side by side."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.load.types import Closed, Load, Outcome
from benchmarks.raw_encoder import RawEncoder, raw_encoder
from benchmarks.services import ENCODER, answers_ok, gateway, infinity, model_service, running, serves_models
from setup_milvus.datasets import Columns, Dataset, Tally
from tests.support.processes import Service, answers_ready

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORDS_MIN = 4
SIMILARITY_MIN = 0.999


@dataclass(frozen=True, slots=True)
class Encoders:
    """All loaded; only the one that is being measured is busy."""

    raw: RawEncoder
    models: Service
    gateway: Service
    infinity: Service


@contextmanager
def encoders() -> Iterator[Encoders]:
    """The same model four times: alone, behind app_llm and the gateway, and in Infinity."""
    with (
        raw_encoder() as raw,
        running(infinity(), answers_ok("/health")) as peer,
        running(model_service(engine="simulated"), answers_ready) as models,
        running(gateway(models.url), serves_models) as front,
    ):
        yield Encoders(raw, models, front, peer)


def sentences_of(dataset: Path, most: int) -> list[str]:
    """Distinct sentences of the data set, in its order."""
    texts = (document.text for document in Dataset.open(dataset, Columns()).documents(Tally()))
    sentences = (sentence for text in texts for sentence in _SENTENCE_END.split(text))
    return list(dict.fromkeys(s for s in sentences if len(s.split()) >= _WORDS_MIN))[:most]


def embeddings_load(url: str, sentences: Sequence[str], at_once: int) -> Load:
    """One sentence a request, each once, as OpenAI's client asks for them (base64)."""
    bodies = [json.dumps({"model": Path(ENCODER).name, "input": s, "encoding_format": "base64"}) for s in sentences]
    return Load(url, bodies, Closed(at_once, requests=len(bodies)))


def wrong_vector(outcome: Outcome, right: Sequence[float]) -> list[str]:
    """A doubt when the first answer's vector is not the raw model's."""
    encoded = json.loads(outcome.first_body)["data"][0]["embedding"]
    similarity = float(np.frombuffer(base64.b64decode(encoded), dtype="<f4") @ np.asarray(right, dtype=np.float32))
    return [] if similarity > SIMILARITY_MIN else [f"another vector than the raw model's (cosine {similarity:.3f})"]
