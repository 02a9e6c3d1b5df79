"""`python -m evaluation.similar_questions`: from which cosine do two questions ask for the same?

    python -m evaluation.similar_questions --data FOLDER --set squad_v1 --set squad_v2
    python -m evaluation.similar_questions --questions my-questions.jsonl --paraphrases my-pairs.jsonl

For PHAROS_CACHE_SIMILARITY: what the semantic cache would do with these questions at each threshold, by the encoder
that is to be served. `--questions` are JSON lines with `question` and `answer`, `--paraphrases` JSON lines with two
ways to ask the same (`--fields`). docs/caching.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.caching.answers import comparable
from contracts.types import Vectors
from evaluation.answer_figures import normalised
from evaluation.sets import SetError, open_set, rows_of

THRESHOLDS = (0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
SEED = 0
_BLOCK = 512

Encode = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its answers, any of which is right, as they are compared."""

    text: str
    answers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Share:
    """Of so many tries, how many got an answer that is theirs, and how many one that is not."""

    tries: int
    right: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Column:
    """One figure at each of THRESHOLDS."""

    name: str
    shares: tuple[Share, ...]


def others(questions: Sequence[Asked], vectors: Vectors) -> Column:
    """Each question when all the others have been asked before. Right: one with an answer in common."""
    return _of("another question", questions, vectors, questions, vectors, of=lambda _: None)


def varied(
    name: str,
    vary: Callable[[str, random.Random], str],
    questions: Sequence[Asked],
    vectors: Vectors,
    encode: Encode,
    tries: int,
) -> Column:
    """`tries` of the questions in another form, when all of them have been asked before."""
    drawn = random.Random(SEED)
    indices = drawn.sample(range(len(questions)), min(tries, len(questions)))
    changed = [Asked(vary(questions[i].text, drawn), questions[i].answers) for i in indices]
    texts = [question.text for question in changed]
    return _of(name, changed, encode(texts), questions, vectors, of=lambda i: indices[i])


def other_numbers(questions: Sequence[Asked], encode: Encode, tries: int) -> Column:
    """Questions with a number, against themselves with another one: by the cosine alone, which `comparable` is for."""
    numbered = [question.text for question in questions if re.search(r"\d", question.text)][:tries]
    changed = [re.sub(r"\d(?=\D*$)", lambda match: str((int(match[0]) + 1) % 10), text) for text in numbered]
    return _of_pairs("another number, by the cosine alone", encode(numbered), encode(changed), right=False)


def paraphrases(pairs: Sequence[tuple[str, str]], encode: Encode) -> Column:
    """Pairs that ask the same."""
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    kept = np.array([comparable(one, other) for one, other in pairs])
    return _of_pairs("paraphrase", encode(first), encode(second) * kept[:, None], right=True)


def lowered(text: str, _: random.Random) -> str:
    """As people type: no capitals, no punctuation at the end."""
    return text.strip().rstrip("?.! ").lower()


def mistyped(text: str, drawn: random.Random) -> str:
    """Two neighbouring letters of a word of four or more are swapped."""
    places = [match.start() + 1 for match in re.finditer(r"[^\W\d_]{4,}", text)]
    if not places:
        return text
    at = drawn.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def polite(text: str, _: random.Random) -> str:
    """With words around it that change nothing."""
    text = text.strip()
    return f"Please tell me: {text}"


VARIANTS: Mapping[str, Callable[[str, random.Random], str]] = {
    "lower case, no question mark": lowered,
    "a typing error": mistyped,
    '"Please tell me: …"': polite,
}


def table(columns: Sequence[Column]) -> str:
    """Markdown: shares that got a right answer / a wrong one."""
    head = ["cosine", *(f"{column.name} ({column.shares[0].tries:,})" for column in columns)]
    lines = [head, ["---"] * len(head)]
    for i, threshold in enumerate(THRESHOLDS):
        cells = [column.shares[i] for column in columns]
        lines.append([f"{threshold:.2f}", *(f"{_share(c.right, c.tries)} / {_share(c.wrong, c.tries)}" for c in cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def _of(
    name: str,
    asked: Sequence[Asked],
    vectors: Vectors,
    known: Sequence[Asked],
    known_vectors: Vectors,
    of: Callable[[int], int | None],
) -> Column:
    """As the cache looks: the nearest that is known, whatever it is. `of(i)` is which of them the i-th is a form of;
    None: it is one of them, and is not looked at."""
    found: list[tuple[float, bool]] = []
    for start in range(0, len(asked), _BLOCK):
        similarities = vectors[start : start + _BLOCK] @ known_vectors.T
        for i, row in enumerate(similarities, start):
            own = of(i)
            if own is None:
                row[i] = -1
            nearest = int(row.argmax())
            if comparable(asked[i].text, known[nearest].text):
                found.append((float(row[nearest]), nearest == own or bool(asked[i].answers & known[nearest].answers)))
    return Column(name, tuple(_counted(found, threshold, len(asked)) for threshold in THRESHOLDS))


def _of_pairs(name: str, first: Vectors, second: Vectors, *, right: bool) -> Column:
    found = [(float(similarity), right) for similarity in (first * second).sum(axis=1)]
    return Column(name, tuple(_counted(found, threshold, len(found)) for threshold in THRESHOLDS))


def _counted(found: Sequence[tuple[float, bool]], threshold: float, tries: int) -> Share:
    hits = [right for similarity, right in found if similarity >= threshold]
    return Share(tries, sum(hits), len(hits) - sum(hits))


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    return rows_of(file) if file.suffix == ".gz" else map(json.loads, file.read_text(encoding="utf-8").splitlines())


def _own(file: Path) -> list[Asked]:
    return [Asked(row["question"], frozenset({normalised(str(row["answer"]))})) for row in _lines(file)]


def _of_set(data: Path | None, name: str) -> list[Asked]:
    """Those that have an answer, each text once: two with the same words are the exact cache's."""
    asked: dict[str, Asked] = {}
    for question in open_set(data, name).questions:
        if question.answers:
            asked.setdefault(question.text.strip(), Asked(question.text.strip(), _answers(question.answers)))
    return list(asked.values())


def _answers(texts: Sequence[str]) -> frozenset[str]:
    return frozenset(map(normalised, texts))


def _encoder(model: str) -> Encode:
    from app_llm.encoder import SentenceTransformerEncoder

    loaded = asyncio.run(SentenceTransformerEncoder.load(model, "cpu", 2, 64))
    return lambda texts: asyncio.run(loaded.encode(texts)).vectors


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each set of questions; the exit status is 2 for what cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.similar_questions", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the folder that holds the sets' folders")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME", help="again for more")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="JSON lines with `question` and `answer`")
    parser.add_argument("--paraphrases", type=Path, metavar="FILE", help="JSON lines with two ways to ask the same")
    parser.add_argument("--fields", default="question,paraphrase", help="their names; default: %(default)s")
    parser.add_argument("--tries", type=int, default=500, metavar="N", help="in other forms; default: %(default)s")
    parser.add_argument("--encoder", default="volumes/models/all-MiniLM-L6-v2", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        named = {name: _of_set(options.data, name) for name in options.sets}
        if options.questions:
            named[options.questions.name] = _own(options.questions)
        first, second = options.fields.split(",")
        pairs = [(row[first], row[second]) for row in _lines(options.paraphrases)] if options.paraphrases else []
    except (SetError, OSError, ValueError, KeyError) as exc:
        print(f"error: {exc!r}", file=sys.stderr)
        return 2
    encode, tries = _encoder(options.encoder), options.tries
    for name, questions in named.items():
        vectors = encode([question.text for question in questions])
        columns = [others(questions, vectors)]
        columns += [varied(variant, vary, questions, vectors, encode, tries) for variant, vary in VARIANTS.items()]
        columns.append(other_numbers(questions, encode, tries))
        print(f"\n{name}: right / wrong, shares of the tries\n\n{table(columns)}", flush=True)
    different = [(one, other) for one, other in pairs if one.strip().lower() != other.strip().lower()]
    if different:
        print(f"\n{options.paraphrases.name}\n\n{table([paraphrases(different, encode)])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
