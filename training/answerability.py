"""`python -m training.answerability`: how sure can one be, from the hits, that a question can be answered?

Asks every question of a set in SQuAD 2.0's manner (queries whose metadata say `is_impossible`) through a running
gateway's POST /search, whose collection must hold the set's corpus; fits a logistic regression to what comes back; and
writes it with its curve: which share of the unanswerable is refused, and at what price. The curve is of questions about
articles that the regression had not seen (one fold an article). `--foreign` adds questions of other sets, which the
corpus knows nothing of.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from app.ranking.answerability import CONSIDERED, FEATURES, Calibration, features
from app.ranking.options import RankingOptions
from contracts.types import Passage
from training.searching import search

Floats = NDArray[np.float64]
FALSE_REFUSALS = 0.1
"""The share of answerable questions that may be refused wrongly; the threshold is set to it."""
CURVE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SEED = 0
"""Of what is drawn and fitted: two runs give the same."""
_IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its group (an article: questions about one stay in one fold), and what is true of it."""

    text: str
    group: str
    answerable: bool
    foreign: bool = False


class Point(msgspec.Struct, frozen=True):
    """A threshold: which shares it refuses of each kind of question. `foreign` is None where none were asked."""

    threshold: float
    answerable: float
    unanswerable: float
    foreign: float | None


class Report(msgspec.Struct, frozen=True):
    """Area under the ROC curve, of the set's own questions and of foreign against answerable ones; and the curve."""

    features: tuple[str, ...]
    questions: dict[str, int]
    auc: float
    auc_foreign: float | None
    curve: list[Point]


def questions_of(folder: Path, *, foreign: bool = False, limit: int | None = None) -> list[Asked]:
    """The questions of a set in BEIR's layout. Raises ValueError where it does not say which have no answer."""
    asked = []
    for row in _rows(folder):
        metadata = row.get("metadata") or {}
        if not foreign and "is_impossible" not in metadata:
            raise ValueError(f"{folder}: the metadata of {row['_id']!r} do not say is_impossible")
        group = f"{folder.name}/{metadata.get('article', row['_id'])}"
        asked.append(Asked(row["text"].strip(), group, not foreign and not metadata["is_impossible"], foreign))
    return asked if limit is None or limit >= len(asked) else random.Random(SEED).sample(asked, limit)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    files = sorted(folder.glob("queries*.jsonl*"))
    if not files:
        raise ValueError(f"{folder}: has no queries*.jsonl or queries*.jsonl.gz")
    opener = gzip.open if files[0].suffix == ".gz" else open
    with opener(files[0], "rt", encoding="utf-8") as lines:
        for line in lines:
            yield msgspec.json.decode(line)


async def gathered(
    client: httpx.AsyncClient, asked: Sequence[Asked], mode: str, on_done: Callable[[], object] = lambda: None
) -> list[dict[str, float]]:
    """The features of each question, through POST /search. Raises httpx.HTTPError."""
    slots = asyncio.Semaphore(_IN_FLIGHT)
    # What was searched, and not what is made of it, as app/arranging.py has it when it refuses a question: without the
    # reranker, and every step of the gateway's PHAROS_RANKING switched off.
    plain = {"top_k": CONSIDERED, "rerank": False, "ranking": RankingOptions().model_dump()}

    async def one(question: Asked) -> dict[str, float]:
        async with slots:
            hits = (await search(client, "/search", {"question": question.text, "mode": mode, **plain}))["hits"]
        on_done()
        passages = [msgspec.convert(hit["passage"], Passage) for hit in hits]
        sparse = [hit["stages"]["sparse"]["score"] for hit in hits if hit["stages"].get("sparse")]
        return features(question.text, passages, max(sparse, default=0.0))

    return list(await asyncio.gather(*map(one, asked)))


def table(rows: Sequence[dict[str, float]], names: Sequence[str]) -> Floats:
    """One row a question, one column a feature."""
    return np.array([[row[name] for name in names] for row in rows], dtype=np.float64).reshape(len(rows), len(names))


def out_of_fold(values: Floats, asked: Sequence[Asked]) -> Floats:
    """The probability of each question by a regression that saw no question of its group."""
    truth = np.array([question.answerable for question in asked])
    groups = np.array([question.group for question in asked])
    probabilities = np.zeros(len(asked))
    for known, unseen in GroupKFold(min(len(set(groups)), 10)).split(values, truth, groups):
        scaler, model = _fit(values[known], truth[known], _weights([asked[i] for i in known]))
        probabilities[unseen] = model.predict_proba(scaler.transform(values[unseen]))[:, 1]
    return probabilities


def calibrated(values: Floats, asked: Sequence[Asked], names: Sequence[str], encoder: str, mode: str) -> Calibration:
    """The regression over all questions, with the threshold that the unseen ones ask for."""
    truth = np.array([question.answerable for question in asked])
    scaler, model = _fit(values, truth, _weights(asked))
    sets = ", ".join(sorted({question.group.split("/")[0] for question in asked}))
    return Calibration(
        encoder=encoder,
        features=tuple(names),
        means=tuple(map(float, scaler.mean_)),
        scales=tuple(map(float, scaler.scale_)),
        weights=tuple(map(float, model.coef_[0])),
        intercept=float(model.intercept_[0]),
        threshold=float(np.quantile(out_of_fold(values, asked)[truth], FALSE_REFUSALS)),
        fitted_on=f"{len(asked):,} questions of {sets}, searched {mode}",
    )


def report(values: Floats, asked: Sequence[Asked], names: Sequence[str]) -> Report:
    """The curve over the unseen questions of each fold."""
    probabilities = out_of_fold(values, asked)
    answerable = np.array([question.answerable for question in asked])
    foreign = np.array([question.foreign for question in asked])
    own = ~answerable & ~foreign

    def auc(others: NDArray[np.bool_]) -> float:
        both = answerable | others
        return float(roc_auc_score(answerable[both], probabilities[both]))

    points = []
    for share in CURVE:
        threshold = float(np.quantile(probabilities[answerable], share))
        refused = probabilities < threshold
        points.append(
            Point(
                threshold,
                float(refused[answerable].mean()),
                float(refused[own].mean()),
                float(refused[foreign].mean()) if foreign.any() else None,
            )
        )
    counts = {"answerable": int(answerable.sum()), "unanswerable": int(own.sum()), "foreign": int(foreign.sum())}
    return Report(tuple(names), counts, auc(own), auc(foreign) if foreign.any() else None, points)


def _weights(asked: Sequence[Asked]) -> Floats:
    """Each kind of question weighs the same, however many there are: the set's own unanswerable and the foreign ones
    half of what the answerable do."""
    kinds = [(question.answerable, question.foreign) for question in asked]
    shares = {kind: (2 if kind[0] else 1) / kinds.count(kind) for kind in set(kinds)}
    weights = np.array([shares[kind] for kind in kinds])
    return np.asarray(weights * len(asked) / weights.sum(), dtype=np.float64)


def _fit(values: Floats, truth: NDArray[np.bool_], weights: Floats) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(values)
    model = LogisticRegression(random_state=SEED).fit(scaler.transform(values), truth, sample_weight=weights)
    return scaler, model


def shown(found: Report) -> str:
    """The report as lines of text."""
    foreign = "" if found.auc_foreign is None else f", foreign {found.auc_foreign:.3f}"
    lines = [
        f"{', '.join(found.features)}: {found.questions}; area under the ROC curve {found.auc:.3f}{foreign}",
        "threshold  answerable refused  unanswerable refused  foreign refused",
    ]
    for point in found.curve:
        last = "-" if point.foreign is None else f"{point.foreign:.3f}"
        lines.append(f"{point.threshold:9.3f}  {point.answerable:18.3f}  {point.unanswerable:20.3f}  {last:>15}")
    return "\n".join(lines)


async def run(args: argparse.Namespace) -> int:
    """Ask, fit, write."""
    asked = questions_of(args.set, limit=args.limit)
    for folder in args.foreign:
        asked += questions_of(folder, foreign=True, limit=args.foreign_limit)
    async with httpx.AsyncClient(base_url=args.gateway, timeout=60, headers=_headers(args.api_key)) as client:
        rows = await gathered(client, asked, args.mode)
    with_bm25 = (*FEATURES, "bm25")
    for names in (FEATURES, with_bm25):
        print(shown(report(table(rows, names), asked, names)), end="\n\n")
    calibration = calibrated(table(rows, FEATURES), asked, FEATURES, args.encoder, args.mode)
    args.out.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)) + b"\n")
    print(f"written to {args.out}; the gateway reads it as PHAROS_ANSWERABILITY={args.out}")
    return 0


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.answerability", description=__doc__)
    parser.add_argument("--set", type=Path, required=True, help="folder with queries that say is_impossible")
    parser.add_argument("--foreign", type=Path, action="append", default=[], help="folder of another set; repeatable")
    parser.add_argument("--gateway", default="http://127.0.0.1:8000", help="address of the running gateway")
    parser.add_argument("--api-key", default="", help="where the gateway wants one")
    parser.add_argument("--mode", default="hybrid", choices=["hybrid", "dense", "sparse"], help="as users will search")
    parser.add_argument("--encoder", required=True, help="the encoder of the collection, as GET /v1/models names it")
    parser.add_argument("--limit", type=int, help="questions of the set, drawn by chance")
    parser.add_argument("--foreign-limit", type=int, default=200, help="questions of each other set, drawn too")
    parser.add_argument("--out", type=Path, default=Path("answerability.json"), help="where to write the coefficients")
    try:
        return asyncio.run(run(parser.parse_args(arguments)))
    except (ValueError, httpx.HTTPError) as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
