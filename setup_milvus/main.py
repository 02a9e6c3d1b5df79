"""Command line of the ingestion job."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from pymilvus import MilvusException
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from contracts.filters import METADATA_KEY
from contracts.telemetry import SETUP
from observability import logs
from observability.settings import TelemetrySettings
from setup_milvus.datasets import Columns, Dataset
from setup_milvus.ingest import DependencyDown, Ingestion, Outcome, Step
from setup_milvus.instrumented import Metrics, served
from setup_milvus.readers import DatasetError
from setup_milvus.settings import Settings
from setup_milvus.store import ManifestMismatch

INCOMPLETE = 1
BAD_INPUT = 2
DOWN = 3
INTERRUPTED = 130

log = logging.getLogger(__name__)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; the columns' defaults are the news data set's."""
    columns = Columns()
    parser = argparse.ArgumentParser(
        prog="python -m setup_milvus",
        description="Load a data set (.csv, .csv.gz, .xlsx, .jsonl) into Milvus. Running it again changes nothing.",
    )
    parser.add_argument("--dataset", required=True, type=Path, metavar="FILE")
    parser.add_argument("--text-column", default=columns.text, help="default: %(default)s")
    parser.add_argument("--title-column", default=columns.title, help="default: %(default)s; '' for none")
    parser.add_argument("--topic-column", default=columns.topic, help="default: %(default)s; '' for none")
    parser.add_argument("--date-column", default=columns.date, help="default: %(default)s; '' for none")
    parser.add_argument("--id-column", default=None, help="a column that identifies a document; default: none")
    parser.add_argument("--author-column", default=None, help="default: none")
    parser.add_argument(
        "--metadata-columns",
        type=_names,
        default=(),
        metavar="A,B",
        help="further columns that questions can filter by",
    )
    parser.add_argument("--encoding", default=None, help="default: UTF-8, or cp1252 where the file is not UTF-8")
    parser.add_argument("--limit", type=_positive, default=None, metavar="ROWS", help="read only the first ROWS rows")
    parser.add_argument("--recreate", action="store_true", help="drop the collection first")
    parser.add_argument("--dry-run", action="store_true", help="read and chunk, but store nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; the exit status says how it went."""
    options = parse(arguments)
    try:
        settings, telemetry = Settings(), TelemetrySettings()
    except ValidationError as exc:
        print(f"error: the settings cannot work: {exc}", file=sys.stderr)
        return BAD_INPUT
    registry = CollectorRegistry()
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback for every call that we retry
    with logs.configure(
        SETUP,
        telemetry,
        "info",
        [settings.milvus_token],
        registry,
        console_level="warning",
        console_format="%(message)s",
        quiet=("httpx",),
    ):
        return _run(options, settings, registry)


def _run(options: argparse.Namespace, settings: Settings, registry: CollectorRegistry) -> int:
    columns = Columns(
        options.text_column,
        options.title_column,
        options.topic_column,
        options.date_column,
        options.id_column,
        options.author_column,
        options.metadata_columns,
    )
    started = time.monotonic()
    log.info("loading %s into %s", options.dataset.name, settings.collection)
    try:
        dataset = Dataset.open(options.dataset, columns, options.encoding)
        rows = min(dataset.rows, options.limit or dataset.rows)
        metrics = Metrics(registry)
        with (
            served(registry, settings.ingest_metrics_host, settings.ingest_metrics_port),
            metrics.running(rows),
            tqdm(total=rows, unit="doc", desc=options.dataset.name, disable=None) as bar,
            logging_redirect_tqdm(),
        ):

            def on_step(step: Step) -> None:
                bar.update(step.documents)
                metrics.on_step(step)

            outcome = asyncio.run(
                Ingestion(settings, metrics.on_read, on_step).run(
                    dataset, limit=options.limit, recreate=options.recreate, dry_run=options.dry_run
                )
            )
            # Dropped rows are done too.
            bar.update(rows - bar.n)
    except (DatasetError, ManifestMismatch) as exc:
        return _failed(BAD_INPUT, f"error: {exc}")
    except DependencyDown as exc:
        return _failed(DOWN, f"error: {exc}")
    except (MilvusException, httpx.HTTPError) as exc:
        return _failed(DOWN, f"error: a service refused what was asked of it: {exc}")
    except KeyboardInterrupt:
        return _failed(INTERRUPTED, "stopped; what was stored is safe: run the same command again to go on")
    text = report(outcome, dataset, time.monotonic() - started)
    print(text)
    log.info("%s", text)
    return 0 if outcome.complete else INCOMPLETE


def _failed(status: int, why: str) -> int:
    """Said in plain words, not as a line of a log; Loki gets it as one."""
    print(why, file=sys.stderr)
    log.info("%s", why)
    return status


def report(outcome: Outcome, dataset: Dataset, seconds: float) -> str:
    """What happened, for a person."""
    tally = outcome.tally
    lines = [
        f"{tally.rows:,} rows read from {dataset.path.name}" + (f" as {dataset.encoding}" if dataset.encoding else ""),
        f"{tally.documents:,} documents, {outcome.passages:,} passages, "
        f"{outcome.already_stored:,} of them stored before",
    ]
    lines += [f"  dropped {count:>6,}  {reason}" for reason, count in tally.dropped.most_common()]
    lines += [f"  mended  {count:>6,}  {reason}" for reason, count in tally.mended.most_common()]
    if outcome.truncated:
        lines.append(f"  {outcome.truncated:,} passages were longer than the encoder's window and were cut by it")
    if outcome.stored is None:
        lines.append("dry run: nothing was stored")
    for topic, expected in sorted(outcome.expected.items()):
        if outcome.stored is None:
            lines.append(f"  {topic}: {expected:,} passages")
        else:
            stored = outcome.stored[topic]
            surplus = "INCOMPLETE" if stored < expected else "with other data sets"
            verdict = "verified" if stored == expected else surplus
            lines.append(f"  {topic}: {stored:,} passages stored of {expected:,} read ({verdict})")
    memory_mib = peak_memory_kib() / 1024
    rate = tally.documents / seconds if seconds else 0
    lines.append(f"{seconds:.1f} s, {rate:.1f} documents/s, peak memory {memory_mib:.0f} MiB")
    return "\n".join(lines)


def peak_memory_kib() -> int:
    """The most memory this process has held. (getrusage would count its parent's, from before exec.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not METADATA_KEY.fullmatch(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} cannot be filtered by: 1 to 64 letters of a to z, digits, dots, dashes and underscores can"
            )
    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
