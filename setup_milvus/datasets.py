"""A file of rows in, cleaned documents out, in chunks, so that memory does not grow with the file."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd

from contracts.collection import AUTHOR_BYTES_MAX, DATE_BYTES_MAX, TITLE_BYTES_MAX, TOPIC_BYTES_MAX
from setup_milvus import readers
from setup_milvus.cleaning import clean_date, clean_line, clean_text, cut_bytes
from setup_milvus.readers import DatasetError

NO_TOPIC = "general"
"""Where documents without a topic go."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns. `id` is optional: where there is one, it is part of a document's identity. `metadata` are
    further columns to keep, so that questions can be narrowed by them."""

    text: str = "Article"
    title: str = "Heading"
    topic: str = "NewsType"
    date: str = "Date"
    id: str | None = None
    author: str | None = None
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """One cleaned row. `id` is a hash of all of it, so that the same row has the same id in every run; `key` is what
    the id column said, if there is one."""

    id: str
    title: str
    text: str
    topic: str
    date: str
    key: str = ""
    author: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(slots=True)
class Tally:
    """What happened to the rows, by reason."""

    rows: int = 0
    documents: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)


def document_id(key: str, title: str, text: str, topic: str, date: str, *more: str) -> str:
    """The first 128 bits of SHA-256 over source and content, in hexadecimal."""
    joined = "\x1f".join((key, title, text, topic, date, *more))
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
        kind = readers.kind_of(path)
        header, rows, encoding = readers.look_over(path, kind, encoding)
        # A JSON row may leave out what it lacks, so only the text is asked of the first one.
        others = [columns.title, columns.topic, columns.date, columns.id, columns.author, *columns.metadata]
        optional = [] if kind == "jsonl" else others
        wanted = [columns.text, *optional]
        missing = [name for name in wanted if name and name not in header]
        if missing:
            raise DatasetError(
                f"{path}: no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, header))}. "
                "Name the columns with --text-column, --title-column, --topic-column and --date-column "
                "('' for a column the file lacks)."
            )
        return cls(path, columns, rows, encoding)

    def documents(self, tally: Tally, limit: int | None = None) -> Iterator[Document]:
        """Cleaned documents in the file's order, without duplicates. `limit` counts rows."""
        with closing(_SeenIds()) as seen, closing(self._frames()) as frames:
            rows = (row for frame in frames for row in frame.itertuples(index=False, name=None))
            for text, title, topic, date, key, author, *more in islice(rows, limit):
                tally.rows += 1
                metadata = dict(zip(self.columns.metadata, more, strict=True))
                document = _document(text, title, topic, date, key, author, metadata, tally)
                if document is None:
                    tally.dropped["no text"] += 1
                elif not seen.add(document.id):
                    tally.dropped["duplicate"] += 1
                else:
                    tally.documents += 1
                    yield document

    def _frames(self) -> Generator[pd.DataFrame, None, None]:
        """Chunks of string columns: text, title, topic, date, id, author, then metadata's. Raises DatasetError."""
        names = self.columns
        wanted = (names.text, names.title, names.topic, names.date, names.id, names.author, *names.metadata)
        frames = readers.frames(self.path, readers.kind_of(self.path), self.encoding)
        with closing(frames):
            for frame in frames:
                columns = {
                    place: frame[name].fillna("").astype(str) if name and name in frame else ""
                    for place, name in enumerate(wanted)
                }
                yield pd.DataFrame(columns, index=frame.index)


def _document(
    text: str, title: str, topic: str, date: str, key: str, author: str, metadata: Mapping[str, str], tally: Tally
) -> Document | None:
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
    by = cut_bytes(clean_line(author)[0], AUTHOR_BYTES_MAX)
    facts = {name: cleaned for name, value in metadata.items() if (cleaned := clean_line(value)[0])}
    # Only where there are any, so that documents without keep the ids they have always had.
    more = [by, *(f"{name}\x1e{value}" for name, value in facts.items())] if by or facts else []
    id = document_id(key, heading, clean, subject, when, *more)
    return Document(id, heading, clean, subject, when, key, by, facts)


class _SeenIds:
    """Which ids have come by: in a private SQLite file, since a set would grow with the data set."""

    def __init__(self) -> None:
        # "": temporary, and on disk once it outgrows the cache. One reader at a time, but not always the same thread.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("create table seen (id text primary key) without rowid")

    def add(self, id: str) -> bool:
        """True for an id that is new."""
        return self._db.execute("insert or ignore into seen values (?)", (id,)).rowcount == 1

    def close(self) -> None:
        self._db.close()
