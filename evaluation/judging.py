"""Is an answer faithful to its passages? Judges, and how far one agrees with people.

    python -m evaluation.judging --data FOLDER [--judge served]

compares judges with the ratings in FOLDER/mtrag_human_eval (Katsis et al., MTRAG, 2025; its passages are in
FOLDER/mtrag_un).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import combinations
from math import nan
from pathlib import Path
from statistics import fmean, median_low
from types import TracebackType
from typing import Protocol, Self

import httpx
from openai import AsyncOpenAI, BadRequestError
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from evaluation import commands, stack
from evaluation.answer_figures import normalised, without_citations
from evaluation.gateway import FindingFailed
from evaluation.sets import SetError, rows_of

GRADES = (1, 2, 3, 4)
"""MTRAG's scale of faithfulness: 4 is wholly from the passages, 1 is not at all."""

CONCURRENT = 4
LEXICAL = "lexical"
SERVED = "served"
"""The judge that is the gateway's own LLM."""


class Judge(Protocol):
    """Rates answers."""

    async def faithfulness(self, question: str, passages: Sequence[str], answer: str) -> float | None:
        """0 (made up) to 1 (every claim is in the passages); None where the judge gave no rating."""
        ...


class LexicalJudge:
    """K-precision: the share of the answer's words that occur in the passages (Adlakha et al., TACL 2024). Needs no
    model; blind to a claim made of the passages' own words."""

    async def faithfulness(self, question: str, passages: Sequence[str], answer: str) -> float | None:  # noqa: ARG002
        words = normalised(without_citations(answer)).split()
        known = set(normalised(" ".join(passages)).split())
        return sum(word in known for word in words) / len(words) if words else None


class ChatJudge:
    """Any OpenAI-compatible chat, the gateway's own /v1 among them. To be entered."""

    def __init__(self, url: str, model: str, key: str) -> None:
        self._client = AsyncOpenAI(base_url=url, api_key=key or "none", timeout=300)
        self._model = model

    async def faithfulness(self, question: str, passages: Sequence[str], answer: str) -> float | None:
        """None too where it is more than the model can read. Raises openai's errors."""
        try:
            return score_of(await self._said(question, passages, answer))
        except BadRequestError as exc:
            if exc.code != "context_length_exceeded":
                raise
            return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def _said(self, question: str, passages: Sequence[str], answer: str) -> str:
        numbered = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(passages, start=1))
        said = await self._client.chat.completions.create(
            model=self._model,
            temperature=0,
            max_tokens=8,
            messages=[
                {
                    "role": "system",
                    "content": "You check answers against passages. Reply with one digit from 1 to 4. "
                    "4: every claim of the answer is in the passages. 3: all but a detail is. "
                    "2: some claims are not. 1: the answer is not from the passages.",
                },
                {
                    "role": "user",
                    "content": f"Passages:\n{numbered}\n\nQuestion: {question}\nAnswer: {answer}\n\nGrade (1-4):",
                },
            ],
        )
        return said.choices[0].message.content or ""


def score_of(reply: str) -> float | None:
    """The first grade in a judge's reply as 0 to 1; None where there is none."""
    found = re.search(r"(?<!\d)[1-4](?!\d)", reply)
    return (int(found.group()) - 1) / 3 if found else None


def grade_of(score: float) -> int:
    """A score, 0 to 1, as the nearest grade."""
    return 1 + round(3 * score)


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer that people rated; `grades` has one for each of them."""

    question: str
    passages: tuple[str, ...]
    answer: str
    grades: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Kappas are Cohen's, weighted by the square of the distance: `kappa` is the judge against the median of the
    raters, `people` one rater against another, which is harder since neither is a median. `spearman` is the rank
    correlation of the judge's scores with the mean grade. Each is NaN where nothing can be compared: the judge rated
    nothing, no answer has two raters."""

    answers: int
    unrated: int
    kappa: float
    spearman: float
    spearman_p: float
    people: float

    def __str__(self) -> str:
        return (
            f"{self.answers} answers ({self.unrated} without a rating): weighted kappa {self.kappa:.3f} "
            f"(between two people {self.people:.3f}), Spearman {self.spearman:.3f} (p {self.spearman_p:.4f})"
        )


def rated_answers(data: Path) -> list[Rated]:
    """The answers that people rated. Raises SetError."""
    ratings, corpus = data / "mtrag_human_eval" / "responses.dev.jsonl.gz", data / "mtrag_un" / "corpus.jsonl.gz"
    for file in (ratings, corpus):
        if not file.is_file():
            raise SetError(f"{file}: no such file")
    texts = {row["_id"]: f"{row.get('title') or ''}\n{row['text']}".strip() for row in rows_of(corpus)}
    rated = []
    for turn in rows_of(ratings):
        passages = tuple(texts[id] for id in turn["context_ids"] if id in texts)
        for response in turn["responses"]:
            people = response["annotations"].get("faithfulness", {}).values()
            grades = tuple(int(person["value"]) for person in people if str(person["value"]) in "1234")
            if grades:
                rated.append(Rated(turn["messages"][-1]["content"], passages, response["response"], grades))
    return rated


async def agreement(judge: Judge, rated: Sequence[Rated]) -> Agreement:
    """How far `judge` agrees with the people. Raises what the judge raises."""
    slots = asyncio.Semaphore(CONCURRENT)

    async def one(answer: Rated) -> float | None:
        async with slots:
            return await judge.faithfulness(answer.question, answer.passages, answer.answer)

    scores = await asyncio.gather(*map(one, rated))
    both = [(score, answer) for score, answer in zip(scores, rated, strict=True) if score is not None]
    ours = [grade_of(score) for score, _ in both]
    theirs = [median_low(answer.grades) for _, answer in both]
    spearman, p = nan, nan
    if len(both) > 1:
        correlation = stats.spearmanr([score for score, _ in both], [fmean(answer.grades) for _, answer in both])
        spearman, p = float(correlation.statistic), float(correlation.pvalue)
    return Agreement(len(both), len(rated) - len(both), _kappa(ours, theirs), spearman, p, _kappa_of_people(rated))


def _kappa(first: Sequence[int], second: Sequence[int]) -> float:
    return float(cohen_kappa_score(first, second, labels=GRADES, weights="quadratic")) if first else nan


def _kappa_of_people(rated: Sequence[Rated]) -> float:
    # The raters have no fixed order, so every pair counts both ways.
    pairs = [
        pair
        for answer in rated
        for one, other in combinations(answer.grades, 2)
        for pair in ((one, other), (other, one))
    ]
    return _kappa([one for one, _ in pairs], [other for _, other in pairs])


async def probe(judges: Mapping[str, Judge]) -> None:
    """Ask each judge once, so that one that cannot be asked is known before the answers are there. Raises what it
    raises."""
    for judge in judges.values():
        await judge.faithfulness("Who won?", ["Denver won."], "Denver won.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which judges."""
    parser.add_argument(
        "--judge",
        dest="judges",
        action="append",
        default=[],
        metavar="JUDGE",
        help=f"again for more: {LEXICAL!r}, {SERVED!r} (the gateway's own LLM), or the /v1 of a chat API",
    )
    parser.add_argument("--judge-model", default="", metavar="NAME", help="at that chat API")
    parser.add_argument("--judge-key", default="PHAROS_JUDGE_KEY", metavar="VARIABLE", help="that holds the API's key")


@asynccontextmanager
async def judges_of(options: argparse.Namespace, gateway_url: str) -> AsyncGenerator[dict[str, Judge]]:
    """The judges that the options name, by short names. Raises FindingFailed where the gateway does not say what it
    serves."""
    async with AsyncExitStack() as entered:
        judges: dict[str, Judge] = {}
        wanted = dict.fromkeys(options.judges)
        several = len(wanted.keys() - {LEXICAL, SERVED}) > 1
        for named in wanted:
            if named == LEXICAL:
                judges[LEXICAL] = LexicalJudge()
                continue
            if named == SERVED:
                name, chat = SERVED, ChatJudge(f"{gateway_url}/v1", generator_of(gateway_url), "")
            else:
                key = os.environ.get(options.judge_key, "")
                model = options.judge_model
                name = f"{model} at {named}" if several and model else model or named
                chat = ChatJudge(named, model, key)
            judges[name] = await entered.enter_async_context(chat)
        yield judges


def generator_of(gateway_url: str) -> str:
    """The name of the LLM that a gateway serves. Raises FindingFailed."""
    try:
        response = httpx.get(f"{gateway_url}/v1/models", timeout=30, trust_env=False).raise_for_status()
    except httpx.HTTPError as exc:
        raise FindingFailed(f"GET {gateway_url}/v1/models: {exc!r}") from exc
    return str(response.json()["data"][0]["id"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.judging", description="Does a judge agree with people?")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--limit-answers", type=int, metavar="N")
    parser.add_argument("--gateway", metavar="URL", help=f"a running gateway, for the judge {SERVED!r}")
    add_options(parser)
    options = parser.parse_args(arguments)
    options.judges = options.judges or [LEXICAL]

    def work() -> None:
        rated = rated_answers(options.data)[: options.limit_answers]
        with ExitStack() as started:
            url = options.gateway or ""
            if SERVED in options.judges and not url:
                url = started.enter_context(_llm())
            asyncio.run(ask(url.rstrip("/"), rated))

    async def ask(url: str, rated: Sequence[Rated]) -> None:
        async with judges_of(options, url) as judges:
            for name, judge in judges.items():
                print(f"{name}: {await agreement(judge, rated)}", flush=True)

    return commands.exit_status(work)


@contextmanager
def _llm() -> Iterator[str]:
    """A gateway for chats, without documents."""
    with (
        stack.services(None, None, engine="vllm") as services,
        stack.gateway(services, "none", log_level="warning", request_timeout_seconds=600, queue_seconds=600) as url,
    ):
        yield url


if __name__ == "__main__":
    sys.exit(main())
