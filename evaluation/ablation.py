"""`python -m evaluation.ablation`: what does each switch gain, and what does it cost?

    python -m evaluation.ablation --set sample
    python -m evaluation.ablation --data FOLDER --set cranfield --switch mmr --switch mmr=0.5 --switch duplicates

Asks each question with every switch off, then with one of them on at a time (evaluation/switches.py), in turns, against
the same gateway. What changes the ranking of documents is asked of POST /search, what changes how the model gets to
read them of POST /ask. docs/evaluation.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from contracts.types import SearchMode
from evaluation import ablation_table, commands, options, report, runs, switches
from evaluation.answer_figures import Reply
from evaluation.answer_figures import figures_of as answer_figures
from evaluation.answers import GATEWAY_SETTINGS, asked, require_own_sources
from evaluation.asking import HttpAsker
from evaluation.finding import Found, HttpFinder
from evaluation.gateway import require_own
from evaluation.options import Front, positive
from evaluation.ranking import Figures, documents_of, figures_of, repeats
from evaluation.sets import EvaluationSet, Question, SetError, evenly
from evaluation.switches import NOTHING, SwitchError, Way
from evaluation.turns import Timed, in_turns, waits

T = TypeVar("T", bound=Timed)

AT_ONCE = (1, 8)
"""Questions at a time for which the wait is measured."""

VECTORS_KEPT = 10_000
"""A question is encoded once, not once for each switch, where none of them has to do with encoding: it is the same, and
noise in what is timed."""

RANKED = ("ndcg@10", "recall@10", "mrr@10", "top-1")
READ = ("source_recall", "source_precision", "prompt_tokens")
"""What can be said of what the model read; of what it made of that, only where the generator is a real one."""
ANSWERED = (*READ, "holds_gold", "f1", "refused_answerable", "refused_unanswerable")

SWITCHED = ("rerank", "self_query", "expand", "ranking")
"""What a run's setup has of the gateway's configuration that a switch decides here, on or off."""

OFF = "off"
Ablation = tuple[runs.Run, list[runs.Run]]
"""All switches off, and each of them on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What is asked, of whom, and what can be said of the answers, by question."""

    name: str
    questions: Sequence[Question]
    asker: Callable[[Way], AbstractAsyncContextManager[Callable[[str], Awaitable[T]]]]
    """To be entered: asks in this way."""
    figures: Callable[[Mapping[str, T]], dict[str, Figures]]
    found: Callable[[T], dict[str, Any]]
    require_own: Callable[[Iterable[T]], None]
    """Raises FindingFailed where these answers are from another set's documents."""


def rankings(chosen: argparse.Namespace, one: EvaluationSet, mode: SearchMode, url: str) -> Kind[Found]:
    """POST /search. Raises SetError where no question has a judgement."""
    questions = evenly(one.judged(), chosen.limit_queries)
    if not questions:
        raise SetError(f"{one.name} has no judged question")
    keys = one.keys()

    def documents(found: Found) -> list[str]:
        return documents_of(keys.get(document, document) for document in found.documents)

    def figures(found: Mapping[str, Found]) -> dict[str, Figures]:
        ranked = figures_of({id: documents(each) for id, each in found.items()}, one.judgements)
        return {
            id: {name: row[name] for name in RANKED} | {"repeats": repeats(found[id].texts)}
            for id, row in ranked.items()
        }

    @asynccontextmanager
    async def asker(way: Way) -> AsyncGenerator[Callable[[str], Awaitable[Found]]]:
        async with HttpFinder(url, mode, chosen.passages, more=way.fields, headers=way.headers) as finder:
            yield finder.find

    def of_this_set(found: Iterable[Found]) -> None:
        require_own(one.name, keys, (document for each in found for document in each.documents))

    return Kind("ranking", questions, asker, figures, lambda found: {"documents": documents(found)}, of_this_set)


def readings(chosen: argparse.Namespace, one: EvaluationSet, mode: SearchMode, url: str) -> Kind[Reply]:
    """POST /ask. Raises SetError where a question has neither an answer nor a judgement."""
    questions = asked(one, chosen.limit_queries) or evenly(one.judged(), chosen.limit_queries)
    if not questions:
        raise SetError(f"{one.name} has no question with an answer or a judgement")
    known = {question.id: question for question in questions}
    keys = one.keys()
    names = ANSWERED if chosen.engine == "vllm" else READ

    def figures_of_one(id: str, reply: Reply) -> Figures:
        all_figures = answer_figures(known[id], reply)
        figures = {name: all_figures[name] for name in names if name in all_figures}
        if id in one.judgements:
            right = {document for document, grade in one.judgements[id].items() if grade > 0}
            figures["source_relevant"] = float(any(keys.get(shown, shown) in right for shown in reply.documents))
        return figures

    @asynccontextmanager
    async def asker(way: Way) -> AsyncGenerator[Callable[[str], Awaitable[Reply]]]:
        body = {"top_k": chosen.top_k, "max_tokens": chosen.max_tokens, "mode": mode, **way.fields}
        async with HttpAsker(url, body, way.headers) as opened:
            yield opened.ask

    return Kind(
        "reading",
        questions,
        asker,
        lambda replies: {id: figures_of_one(id, reply) for id, reply in replies.items()},
        lambda reply: {"answer": reply.answer, "sources": reply.sources},
        lambda replies: require_own_sources(one, replies),
    )


async def measured(
    kind: Kind[T],
    ways: Mapping[str, Way],
    setup: Mapping[str, Any],
    chosen: argparse.Namespace,
) -> Ablation:
    """Each way of asking (by its name; the first has all switches off) as a run. Some of the questions
    are asked again to time them. Raises FindingFailed."""
    async with AsyncExitStack() as stack:
        asking = {name: await stack.enter_async_context(kind.asker(way)) for name, way in ways.items()}
        said = await in_turns(asking, kind.questions, chosen.concurrent)
        kind.require_own(reply for of_way in said.values() for reply in of_way.values())
        timed = evenly(kind.questions, chosen.timed_queries)
        numbers = chosen.at_once if chosen.rounds else ()
        waited = {number: await waits(asking, timed, number, chosen.rounds) for number in numbers}
    done = []
    for way, answers in said.items():
        figures = kind.figures(answers)
        for number, of_ways in waited.items():
            for id, seconds in of_ways[way].items():
                figures[id][ablation_table.waited(number)] = seconds
        found = {
            question.id: {"question": question.text, "gold": question.answers, **kind.found(answers[question.id])}
            for question in kind.questions
        }
        of_way = {**setup, "label": f"{setup['label']} {way}".strip(), "asks": kind.name, "switch": way}
        of_way["questions"] = len(kind.questions)
        name = f"{runs.new_name(of_way)}-{kind.name}-{way}"
        facts = {"concurrent": chosen.concurrent, "timed": len(timed), "rounds": chosen.rounds, "way": str(ways[way])}
        done.append(runs.Run(name, of_way, facts, figures, found))
    return done[0], done[1:]


KINDS: dict[str, Callable[[argparse.Namespace, EvaluationSet, SearchMode, str], Kind[Any]]] = {
    "ranking": rankings,
    "reading": readings,
}
"""By what a switch changes."""


def saved(result: Ablation, folder_of_runs: Path) -> Ablation:
    """Each run with a report that compares it with all switches off, and the table, which is printed too."""
    off, switched = result
    folder = runs.save(off, folder_of_runs)
    report.write(off, [], folder)
    for on in switched:
        report.write(on, [off], runs.save(on, folder_of_runs))
    table = ablation_table.rendered(off, switched)
    (folder / "ablation.md").write_text(table + "\n", encoding="utf-8")
    print(f"{runs.title(off)}, {off.setup['questions']} questions\n\n{table}\n\n  {folder}", flush=True)
    return result


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.ablation", description="What does each switch gain, and what does it cost?"
    )
    options.add(parser)
    parser.add_argument(
        "--switch",
        dest="switches",
        action="append",
        metavar="NAME[=VALUE]",
        help=f"again for more: {', '.join(switches.SWITCHES)}; default: those that need nothing but documents",
    )
    parser.add_argument("--passages", type=positive, default=10, help="to find; default: %(default)s")
    parser.add_argument("--top-k", type=positive, default=5, help="passages to answer from; default: %(default)s")
    parser.add_argument("--max-tokens", type=positive, default=48, help="longest answer; default: %(default)s")
    parser.add_argument(
        "--engine",
        choices=("vllm", "simulated"),
        default="simulated",
        help="simulated: nothing is said of answers, and a token is a word; of a running gateway, what it has; "
        "default: %(default)s",
    )
    parser.add_argument("--timed-queries", type=positive, default=50, metavar="N", help="to time; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of timing, 0: none; default: %(default)s")
    parser.add_argument(
        "--at-once",
        type=positive,
        nargs="+",
        default=AT_ONCE,
        metavar="N",
        help="questions at a time, to time; default 1 8",
    )
    return options.checked(parser, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> list[Ablation]:
    """Every set in every mode. Raises SwitchError, SetError, StackError, FindingFailed."""
    wanted = [switches.chosen(text) for text in dict.fromkeys(chosen.switches or switches.by_default())]
    for one in wanted:
        if one.switch.asks_model and chosen.engine == "simulated":
            raise SwitchError(f"{one.label} asks the model, which a simulated one cannot answer: --engine vllm")
        if one.switch.settings and chosen.gateway:
            needs = ", ".join(f"PHAROS_{name.upper()}" for name in one.switch.settings)
            raise SwitchError(f"{one.label} needs a gateway of our own, started with {needs}: leave out --gateway")
    sets = options.sets_of(chosen)
    control = switches.chosen(NOTHING)

    async def measure(one: EvaluationSet, mode: SearchMode, front: Front) -> list[Ablation]:
        setup = {**options.setup_of(chosen, one, mode, front, kind="ablation"), "engine": chosen.engine}
        setup = {name: value for name, value in setup.items() if name not in SWITCHED}
        done = []
        for changes, kind in KINDS.items():
            of_kind = [each for each in wanted if each.switch.changes == changes and each.label != NOTHING]
            if of_kind:
                ways = {OFF: switches.all_off()}
                ways |= {each.label: each.on() for each in (control, *of_kind)}
                result = await measured(kind(chosen, one, mode, front.url), ways, setup, chosen)
                done.append(saved(result, chosen.runs))
        return done

    settings = GATEWAY_SETTINGS | switches.settings_of(wanted)
    if not any(one.switch.settings or one.switch.asks_model for one in wanted):
        settings["cache_vectors"] = VECTORS_KEPT
    each = commands.over(chosen, sets, measure, engine=chosen.engine, settings=settings)
    return [ablation for of_set in each for ablation in of_set]


def main(arguments: list[str] | None = None) -> int:
    return commands.exit_status(lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
