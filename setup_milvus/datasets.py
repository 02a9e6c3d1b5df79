"""Readers: a file of rows in, cleaned documents out, in chunks, so that memory does not grow with the file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import openpyxl
import pandas as pd

from contracts.collection import DATE_BYTES_MAX, TITLE_BYTES_MAX, TOPIC_BYTES_MAX
from setup_milvus.cleaning import clean_date, clean_line, clean_text, cut_bytes

ROWS_PER_CHUNK = 1000
NO_TOPIC = "general"
"""Where documents without a topic go."""


class DatasetError(Exception):
    """The file cannot be read as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns. `id` is optional: where there is one, it is part of a document's identity."""

    text: str = "Article"
    title: str = "Heading"
    topic: str = "NewsType"
    date: str = "Date"
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One cleaned row. `id` is a hash of all of it, so that the same row has the same id in every run."""

    id: str
    title: str
    text: str
    topic: str
    date: str


@dataclass(slots=True)
class Tally:
    """What happened to the rows, by reason."""

    rows: int = 0
    documents: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)


def document_id(key: str, title: str, text: str, topic: str, date: str) -> str:
    """The first 128 bits of SHA-256 over source and content, in hexadecimal."""
    joined = "\x1f".join((key, title, text, topic, date))
    return hashlib.sha256(joined.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A readable file. `rows` is exact; `encoding` is None for formats that say it themselves."""

    path: Path
    columns: Columns
    rows: int
    encoding: str | None

    @classmethod
    def open(cls, path: Path, columns: Columns, encoding: str | None = None) -> Dataset:
        """Look the file over once: format, encoding, columns, number of rows. Raises DatasetError."""
        if not path.is_file():
            raise DatasetError(f"{path}: no such file")
        kind = _kind(path)
        if kind == "xlsx":
            header, rows = _look_over_xlsx(path)
            encoding = None
        else:
            encoding = encoding or _detect_encoding(path)
            header, rows = _look_over_text(path, encoding, kind)
        wanted = [columns.text, columns.title, columns.topic, columns.date, columns.id]
        missing = [name for name in wanted if name and name not in header and not (kind == "jsonl")]
        if missing:
            raise DatasetError(
                f"{path}: no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, header))}. "
                "Name the columns with --text-column, --title-column, --topic-column and --date-column "
                "('' for a column the file lacks)."
            )
        return cls(path, columns, rows, encoding)

    def documents(self, tally: Tally, limit: int | None = None) -> Iterator[Document]:
        """Cleaned documents in the file's order, without duplicates. `limit` counts rows."""
        seen = _SeenIds()
        rows = (row for frame in self._frames() for row in frame.itertuples(index=False, name=None))
        for text, title, topic, date, key in islice(rows, limit):
            tally.rows += 1
            document = _document(text, title, topic, date, key, tally)
            if document is None:
                tally.dropped["no text"] += 1
            elif not seen.add(document.id):
                tally.dropped["duplicate"] += 1
            else:
                tally.documents += 1
                yield document

    def _frames(self) -> Iterator[pd.DataFrame]:
        """Chunks with exactly five string columns: text, title, topic, date, id."""
        kind = _kind(self.path)
        if kind == "xlsx":
            frames = _xlsx_frames(self.path)
        elif kind == "jsonl":
            frames = iter(pd.read_json(self.path, lines=True, chunksize=ROWS_PER_CHUNK, dtype=False, encoding="utf-8"))
        else:
            frames = iter(
                pd.read_csv(
                    self.path, chunksize=ROWS_PER_CHUNK, dtype=str, keep_default_na=False, encoding=self.encoding
                )
            )
        names = self.columns
        for frame in frames:
            columns = {}
            for role, name in zip(
                ("text", "title", "topic", "date", "id"),
                (names.text, names.title, names.topic, names.date, names.id),
                strict=True,
            ):
                columns[role] = frame[name].fillna("").astype(str) if name and name in frame else ""
            yield pd.DataFrame(columns, index=frame.index)


def _document(text: str, title: str, topic: str, date: str, key: str, tally: Tally) -> Document | None:
    clean, mends = clean_text(text)
    heading, title_mends = clean_line(title)
    subject, topic_mends = clean_line(topic)
    if not clean:
        return None
    for name in dict.fromkeys([*mends, *title_mends, *topic_mends]):
        tally.mended[name] += 1
    if not subject:
        tally.mended[f"no topic, filed under {NO_TOPIC!r}"] += 1
        subject = NO_TOPIC
    when, understood = clean_date(date)
    if not understood:
        tally.mended["date not understood, kept as written"] += 1
    if len(heading.encode()) > TITLE_BYTES_MAX or len(subject.encode()) > TOPIC_BYTES_MAX:
        tally.mended["heading or topic cut to its limit"] += 1
    heading, subject = cut_bytes(heading, TITLE_BYTES_MAX), cut_bytes(subject, TOPIC_BYTES_MAX)
    when = cut_bytes(when, DATE_BYTES_MAX)
    return Document(document_id(key, heading, clean, subject, when), heading, clean, subject, when)


class _SeenIds:
    """Which ids have come by: in a private SQLite file, since a set would grow with the data set."""

    def __init__(self) -> None:
        # "": temporary, and on disk once it outgrows the cache. One reader at a time, but not always the same thread.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("create table seen (id text primary key) without rowid")

    def add(self, id: str) -> bool:
        """True for an id that is new."""
        return self._db.execute("insert or ignore into seen values (?)", (id,)).rowcount == 1


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    for kind in ("csv", "xlsx", "jsonl"):
        if name.endswith(f".{kind}"):
            return kind
    raise DatasetError(f"{path}: not a .csv, .csv.gz, .xlsx, .jsonl or .jsonl.gz file")


def _open_bytes(path: Path) -> IO[bytes]:
    opened: IO[bytes] = gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[assignment]
    return opened


def _detect_encoding(path: Path) -> str:
    """UTF-8 where the whole file is UTF-8, else cp1252. (latin-1 would accept anything and garble the quotes.)"""
    problems = []
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            with _open_bytes(path) as raw, _text_of(raw, encoding) as text:
                while text.read(1 << 20):
                    pass
            return encoding
        except UnicodeDecodeError as exc:
            problems.append(f"{encoding}: {exc.reason} at byte {exc.start} of a block")
        except (OSError, EOFError) as exc:
            raise DatasetError(f"{path}: cannot be read: {exc}") from exc
    raise DatasetError(f"{path}: neither UTF-8 nor cp1252 ({'; '.join(problems)}). Say which with --encoding.")


def _text_of(raw: IO[bytes], encoding: str) -> IO[str]:
    import io

    return io.TextIOWrapper(raw, encoding=encoding, newline="")


def _look_over_text(path: Path, encoding: str, kind: str) -> tuple[list[str], int]:
    """Header and number of rows."""
    csv.field_size_limit(2**31 - 1)
    try:
        with _open_bytes(path) as raw, _text_of(raw, encoding) as text:
            if kind == "jsonl":
                return [], sum(1 for line in text if line.strip())
            reader = csv.reader(text)
            header = next(reader, None)
            if header is None:
                raise DatasetError(f"{path}: the file is empty")
            return header, sum(1 for row in reader if row)
    except LookupError as exc:
        raise DatasetError(f"unknown encoding {encoding!r}") from exc
    except UnicodeDecodeError as exc:
        raise DatasetError(f"{path}: is not {encoding}: {exc.reason}. Try another --encoding.") from exc
    except (OSError, EOFError, csv.Error) as exc:
        raise DatasetError(f"{path}: cannot be read: {exc}") from exc


def _look_over_xlsx(path: Path) -> tuple[list[str], int]:
    try:
        book = openpyxl.load_workbook(path, read_only=True)
    except Exception as exc:  # openpyxl raises what zipfile and its XML parser raise
        raise DatasetError(f"{path}: is not a readable .xlsx file: {exc}") from exc
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [str(name or "") for name in next(rows, ())]
        if not header:
            raise DatasetError(f"{path}: the first sheet is empty")
        return header, sum(1 for row in rows if any(cell is not None for cell in row))
    finally:
        book.close()


def _xlsx_frames(path: Path) -> Iterator[pd.DataFrame]:
    # pandas.read_excel holds the whole sheet; openpyxl's read-only mode streams it.
    book = openpyxl.load_workbook(path, read_only=True)
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [str(name or "") for name in next(rows)]
        filled = (row for row in rows if any(cell is not None for cell in row))
        while chunk := list(islice(filled, ROWS_PER_CHUNK)):
            frame = pd.DataFrame(chunk, columns=header, dtype=object)
            yield frame.loc[:, ~frame.columns.duplicated()]
    finally:
        book.close()
