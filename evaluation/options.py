"""What the two commands have in common: options, sets, services."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contracts.analysis import Language
from evaluation import stack
from evaluation.configured import configured
from evaluation.finding import MODES
from evaluation.runs import RUNS
from evaluation.sets import SAMPLE, EvaluationSet, open_set
from evaluation.stack import Services


@dataclass(frozen=True, slots=True)
class Front:
    """A gateway that holds a set; `configured` is what can be known of how it is, by names of a run's setup."""

    url: str
    configured: Mapping[str, Any]


OF_OUR_OWN = ("model_service", "passages_by", "milvus", "language", "recreate")
"""Options that only a gateway of our own heeds."""


def add(parser: argparse.ArgumentParser) -> None:
    """Which sets, how asked, against what."""
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the folder that holds the sets' folders")
    parser.add_argument("--set", dest="sets", action="append", metavar="NAME", help="again for more; default: sample")
    parser.add_argument("--mode", dest="modes", action="append", choices=MODES, help="again for more; default: hybrid")
    parser.add_argument("--split", default="dev", help="default: %(default)s")
    parser.add_argument("--turns", choices=("last", "all"), default="last", help="of a conversation; default: last")
    parser.add_argument("--limit-queries", type=positive, metavar="N", help="only N of the questions")
    parser.add_argument("--concurrent", type=positive, default=8, help="questions at a time; default: %(default)s")
    parser.add_argument("--label", default="", help="what was changed; runs of another label are another setup")
    parser.add_argument(
        "--language",
        type=Language,
        choices=list(Language),
        help="of the documents; default: what the set's name says, else PHAROS_ANALYZER_LANGUAGE",
    )
    parser.add_argument("--recreate", action="store_true", help="load the documents anew")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--gateway", metavar="URL", help="a running gateway, which holds the set already")
    parser.add_argument("--model-service", metavar="URL", help="a running app_llm")
    parser.add_argument("--passages-by", metavar="URL", help="another running app_llm, to encode passages with")
    parser.add_argument("--milvus", metavar="URI", help="a running Milvus")


def positive(text: str) -> int:
    """The type of an option that counts. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def checked(
    parser: argparse.ArgumentParser, options: argparse.Namespace, *, of_our_own: Sequence[str] = ()
) -> argparse.Namespace:
    """The options with their defaults. Exits for those that contradict each other: a running gateway has been told
    already what OF_OUR_OWN, and the command's own options `of_our_own`, say to one that is started."""
    options.sets = options.sets or [SAMPLE]
    options.modes = options.modes or ["hybrid"]
    if options.gateway and len(options.sets) > 1:
        parser.error("a running gateway serves one collection: give one --set")
    for name in (*OF_OUR_OWN, *of_our_own) if options.gateway else ():
        given = getattr(options, name)
        if given is not None and given is not False:  # 0 is given
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} says nothing to a gateway that runs already: leave out {option} or --gateway")
    return options


def sets_of(options: argparse.Namespace) -> list[EvaluationSet]:
    """The sets, all of them read before anything starts. Raises SetError."""
    return [open_set(options.data, name, split=options.split, turns=options.turns) for name in options.sets]


def setup_of(
    options: argparse.Namespace, chosen: EvaluationSet, mode: str, front: Front, *, kind: str
) -> dict[str, Any]:
    """What a run was asked, and of what: two with the same are the same measurement."""
    return {
        **front.configured,
        "kind": kind,
        "set": chosen.name,
        "split": options.split,
        "turns": options.turns,
        "corpus": chosen.fingerprint(),
        "mode": mode,
        "label": options.label,
    }


def services_of(options: argparse.Namespace, stack_of_all: ExitStack, *, engine: str) -> Services | None:
    """Where model service and Milvus are, started where they are not given; None for a running gateway."""
    if options.gateway:
        return None
    return stack_of_all.enter_context(stack.services(options.model_service, options.milvus, engine=engine))


def gateway_of(
    options: argparse.Namespace,
    stack_of_set: ExitStack,
    where: Services | None,
    chosen: EvaluationSet,
    settings: Mapping[str, object],
) -> Front:
    """One that holds the set: the running one, or one of our own. Raises StackError, and pydantic's ValidationError."""
    if where is None:
        url = str(options.gateway).rstrip("/")
        return Front(url, {"gateway": url})
    passages_by = replace(where, model_url=options.passages_by or where.model_url)
    says = configured(where.card(), passages_by.card(), settings)
    says["language"] = str(stack.language_of(chosen, options.language))
    collection = loaded(options, passages_by, chosen)
    return Front(stack_of_set.enter_context(stack.gateway(where, collection, **settings)), says)


def loaded(options: argparse.Namespace, where: Services, chosen: EvaluationSet) -> str:
    """The collection that holds the set. Raises StackError."""
    began = time.monotonic()
    collection = asyncio.run(stack.ingested(where, chosen, options.language, recreate=options.recreate))
    print(f"{chosen.name}: documents ready in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return collection
