"""How the commands go about it: every set in every mode against services, each run saved and shown as it is done."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from openai import OpenAIError
from pydantic import ValidationError

from contracts.types import SearchMode
from evaluation import options, report, runs
from evaluation.gateway import FindingFailed
from evaluation.options import Front
from evaluation.sets import EvaluationSet, SetError
from evaluation.stack import StackError
from evaluation.switches import SwitchError

T = TypeVar("T")
Said = Callable[[runs.Run, Sequence[runs.Run]], str]
"""A run, and the earlier ones of the same questions, in lines for a terminal."""


def over(
    chosen: argparse.Namespace,
    sets: Sequence[EvaluationSet],
    measure: Callable[[EvaluationSet, SearchMode, Front], Coroutine[Any, Any, T]],
    *,
    engine: str,
    settings: Mapping[str, object],
) -> list[T]:
    """`measure` of every set in every mode, with a gateway that holds the set. Raises StackError, and what
    `measure` raises."""
    done: list[T] = []
    with ExitStack() as started:
        where = options.services_of(chosen, started, engine=engine)
        for one in sets:
            with ExitStack() as of_set:
                front = options.gateway_of(chosen, of_set, where, one, settings)
                for mode in chosen.modes:
                    done.append(asyncio.run(measure(one, mode, front)))
    return done


def finished(run: runs.Run, folder_of_runs: Path, said: Said) -> runs.Run:
    """The run, saved, said, and with its report beside the earlier ones."""
    folder = runs.save(run, folder_of_runs)
    before = runs.earlier(run, folder_of_runs)
    print(said(run, before), flush=True)
    print(f"  {report.write(run, before, folder)}", flush=True)
    return run


def exit_status(work: Callable[[], object]) -> int:
    """0, or 1 where `work` cannot be done, with the reason on standard error."""
    try:
        work()
    except (SetError, StackError, SwitchError, FindingFailed, OpenAIError, ValidationError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0
