"""What a run of the benchmarks is told on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """`quick` runs are short: they show that a measure works, not how fast anything is."""

    quick: bool = False
    dataset: Path = Path("setup_milvus/sample/articles.csv")
    set: Path | None = None
    """The folder of a set of questions in BEIR's layout; None: the packaged sample."""
