"""A run on disk: `run.json` (what was asked of it and the means) and `questions.jsonl` (a line per question)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.ranking import Figures, mean_of

RUNS = Path("volumes/evaluation/runs")

ASKED = ("kind", "set", "split", "turns", "questions", "foreign", "corpus", "passages", "top_k")
"""What must be the same in the setups of two runs for their figures to be of the same thing."""


@dataclass(frozen=True, slots=True)
class Run:
    """`setup` is what makes runs comparable (kind, set, split, mode, …); `facts` is what else is worth keeping
    (seconds, counts). `figures` are question id → name → value; `found` is what was found or said, for people to read.
    """

    name: str
    setup: Mapping[str, Any]
    facts: Mapping[str, Any]
    figures: Mapping[str, Figures] = field(repr=False)
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def means(self) -> Figures:
        """The mean of each figure over the questions that have it."""
        return mean_of(self.figures)

    def column(self, figure: str) -> dict[str, float]:
        """One figure of every question that has it."""
        return {question: row[figure] for question, row in self.figures.items() if figure in row}

    def folder(self, runs: Path = RUNS) -> Path:
        return runs / self.name


def title(run: Run) -> str:
    """Set, mode and what else was chosen, for a person."""
    setup = run.setup
    parts = [setup["set"], setup["mode"]]
    parts += ["+ rerank"] if setup.get("rerank") else []
    parts += [f"+ {setup['expand']}"] if setup.get("expand", "off") != "off" else []
    parts += [f"({setup['label']})"] if setup.get("label") else []
    return " ".join(parts)


def when(run: Run) -> str:
    """When it was, UTC."""
    stamp = run.name.partition("-")[0]
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}"


def new_name(setup: Mapping[str, Any]) -> str:
    """A folder's name that sorts by time (UTC, to the millisecond)."""
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}"
    what = [str(setup[key]) for key in ("kind", "set", "mode") if setup.get(key)]
    what += ["rerank"] if setup.get("rerank") else []
    what += [setup["expand"]] if setup.get("expand", "off") != "off" else []
    return "-".join([stamp, *what])


def save(run: Run, runs: Path = RUNS) -> Path:
    """Write it; the folder."""
    folder = run.folder(runs)
    folder.mkdir(parents=True)
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as lines:
        for question, figures in run.figures.items():
            row = {"id": question, "figures": figures, **run.found.get(question, {})}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    head = {"setup": run.setup, "facts": run.facts, "means": run.means}
    # Last, since a folder with this file is a whole run.
    (folder / "run.json").write_text(json.dumps(head, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return folder


def load(folder: Path) -> Run:
    """Read it. Raises OSError or ValueError for what is not a run."""
    head = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    figures: dict[str, Figures] = {}
    found: dict[str, dict[str, Any]] = {}
    with (folder / "questions.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            question = row.pop("id")
            figures[question] = row.pop("figures")
            found[question] = row
    return Run(folder.name, head["setup"], head["facts"], figures, found)


def earlier(run: Run, runs: Path = RUNS) -> list[Run]:
    """Whole runs before this one that were asked the same questions for as many of the same documents, newest first,
    the newest of each setup only."""
    found: dict[str, Run] = {}
    for head in sorted(runs.glob("*/run.json"), reverse=True):
        if head.parent.name >= run.name:
            continue
        setup = json.loads(head.read_text(encoding="utf-8"))["setup"]
        key = json.dumps(setup, sort_keys=True)
        if key not in found and all(setup.get(name) == run.setup.get(name) for name in ASKED):
            other = load(head.parent)
            if other.figures.keys() & run.figures.keys():
                found[key] = other
    return list(found.values())
