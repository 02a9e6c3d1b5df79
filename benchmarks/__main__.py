"""`python -m benchmarks [names...] [--quick]`: measure, and write docs/benchmarks.md. `--list` says what there is."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import plots, report, results
from benchmarks.machine import this_machine
from benchmarks.measures import MEASURES
from benchmarks.options import Options
from benchmarks.results import Entry


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Pharos beside what people use today.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    parser.add_argument(
        "--dataset", type=Path, default=Options().dataset, help="texts for the encoder (CSV, JSON lines)"
    )
    parser.add_argument(
        "--set", type=Path, metavar="FOLDER", help="questions and documents to search; default: the sample"
    )
    parser.add_argument("--output", type=Path, default=results.FILE, help="the results (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="name the measures and stop")
    given = parser.parse_args()
    if given.list:
        for name, measure in MEASURES.items():
            print(f"{name:12} {measure.title}")
        return
    if unknown := set(given.names) - set(MEASURES):
        parser.error(f"no measure named {', '.join(sorted(unknown))}; there are: {', '.join(MEASURES)}")
    options = Options(quick=given.quick, dataset=given.dataset, set=given.set)
    names = given.names or list(MEASURES)
    failed = [name for name in names if not measure_one(name, options, given.output)]
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def measure_one(name: str, options: Options, file: Path) -> bool:
    """Run a measure and put its outcome in place of its last one. False when it failed; the others go on."""
    measure = MEASURES[name]
    started = time.monotonic()
    print(f"{name}: {measure.title} ...", flush=True)
    try:
        measured = measure.run(options)
    except Exception as exc:  # the boundary between one measure and the others
        print(f"{name} failed: {type(exc).__name__}: {exc}", file=sys.stderr, flush=True)
        if os.environ.get("PHAROS_BENCH_TRACEBACK"):
            raise
        return False
    entry = Entry(
        title=measure.title,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        quick=options.quick,
        seconds=round(time.monotonic() - started, 1),
        measured=measured,
    )
    entries = {**results.load(file), name: entry}
    ordered = {known: entries[known] for known in MEASURES if known in entries}
    results.save(ordered, file)
    for row in measured.rows:
        print("  " + report.plain(row), flush=True)
    # Another file is a trial: it changes no page.
    if file == results.FILE:
        report.PAGE.write_text(report.replaced(report.PAGE.read_text(), report.rendered(ordered)))
    for plot in measured.plots:
        plots.draw(plot, file.parent)
    return True


if __name__ == "__main__":
    main()
