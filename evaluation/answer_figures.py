"""How good an answer is: against the gold answers, in what it cites, and whether it refuses when it should. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.prompting import NOT_IN_DOCUMENTS
from evaluation.ranking import Figures
from evaluation.sets import Question

_CITATION = re.compile(r"\[(\d+(?:\s*[,;]\s*\d+)*)\]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Reply:
    """What POST /ask answered: source i, of document i, is cited as [i + 1], and is what the model read of it: heading,
    date and text. `prompt_tokens` were read by the model,
    as it counts them: 0 where it was not asked."""

    answer: str
    sources: tuple[str, ...]
    seconds: float
    documents: tuple[str, ...] = ()
    prompt_tokens: int = 0


def normalised(text: str) -> str:
    """SQuAD's normalisation (Rajpurkar et al., EMNLP 2016): lower case, no ASCII punctuation, no English articles, one
    space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> float:
    """1 where both are the same once normalised."""
    return float(normalised(answer) == normalised(gold))


def f1(answer: str, gold: str) -> float:
    """The harmonic mean of the shares of words that are in both, as SQuAD counts them: words by white space, so it says
    little of languages that write without."""
    ours, theirs = normalised(answer).split(), normalised(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def holds(text: str, golds: Sequence[str]) -> bool:
    """Whether one of the gold answers stands in `text`, in whole words, once both are normalised."""
    padded = f" {normalised(text)} "
    return any(wanted and f" {wanted} " in padded for wanted in map(normalised, golds))


def citations(answer: str) -> list[int]:
    """The numbers that the answer cites, each once, in the order they come: [2], [1, 3]."""
    numbers = [int(number) for group in _CITATION.findall(answer) for number in re.findall(r"\d+", group)]
    return list(dict.fromkeys(numbers))


def without_citations(answer: str) -> str:
    """The answer's words alone."""
    return _CITATION.sub(" ", answer)


def refuses(answer: str) -> bool:
    """Whether it says that the documents do not hold the answer, in the words that the prompt asks for."""
    return NOT_IN_DOCUMENTS in answer.lower()


def figures_of(question: Question, reply: Reply) -> Figures:
    """What can be said of this question; a figure that does not apply is left out, and so is no part of its mean."""
    refused = refuses(reply.answer)
    figures: Figures = {"seconds": reply.seconds, "prompt_tokens": reply.prompt_tokens}
    if question.answerable is False:
        return figures | {"refused_unanswerable": float(refused)}
    if question.answerable:
        figures["refused_answerable"] = float(refused)
    if not question.answers:
        return figures
    words = without_citations(reply.answer)
    held = [holds(source, question.answers) for source in reply.sources]
    figures |= {
        # A refusal of what can be answered is a wrong answer.
        "exact_match": 0.0 if refused else max(exact_match(words, gold) for gold in question.answers),
        "f1": 0.0 if refused else max(f1(words, gold) for gold in question.answers),
        "holds_gold": float(not refused and holds(words, question.answers)),
        "source_recall": float(any(held)),
    }
    if held:
        figures["source_precision"] = sum(held) / len(held)
    if refused:
        return figures
    cited = citations(reply.answer)
    right = [0 < number <= len(held) and held[number - 1] for number in cited]
    figures["cites"] = float(bool(cited))
    figures["citation_recall"] = float(any(right))
    if cited:
        figures["citation_precision"] = sum(right) / len(right)
        figures["citation_out_of_range"] = sum(not 0 < number <= len(held) for number in cited) / len(cited)
    return figures
