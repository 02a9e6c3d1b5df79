"""Files to pandas frames, a thousand rows at a time: CSV, XLSX and JSON lines, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import IO, Literal, cast

import openpyxl
import pandas as pd

ROWS_PER_FRAME = 1000
Kind = Literal["csv", "xlsx", "jsonl"]


class DatasetError(Exception):
    """The file cannot be read as asked; the message says what to do."""


def kind_of(path: Path) -> Kind:
    """The format, by the file's name. Raises DatasetError."""
    name = path.name.lower()
    for kind in ("csv", "xlsx", "jsonl"):
        if name.endswith(f".{kind}") or (kind != "xlsx" and name.endswith(f".{kind}.gz")):
            return kind
    raise DatasetError(f"{path}: not a .csv, .csv.gz, .xlsx, .jsonl or .jsonl.gz file")


def look_over(path: Path, kind: Kind, encoding: str | None) -> tuple[list[str], int, str | None]:
    """Column names, number of rows and encoding (None for XLSX), in one pass. Raises DatasetError."""
    if kind == "xlsx":
        return (*_look_over_xlsx(path), None)
    if encoding is not None and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # the same, and it drops a byte order mark
    encoding = encoding or _detect_encoding(path)
    return (*_look_over_text(path, encoding, kind), encoding)


def frames(path: Path, kind: Kind, encoding: str | None) -> Generator[pd.DataFrame, None, None]:
    """The rows, as they are. Close the generator to close the file. Raises DatasetError."""
    if kind == "xlsx":
        return _xlsx_frames(path)
    return (_jsonl_frames if kind == "jsonl" else _csv_frames)(path, encoding or "utf-8-sig")


def _open_bytes(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


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
    return io.TextIOWrapper(raw, encoding=encoding, newline="")


def _look_over_text(path: Path, encoding: str, kind: Kind) -> tuple[list[str], int]:
    """Header and number of rows."""
    csv.field_size_limit(2**31 - 1)
    try:
        with _open_bytes(path) as raw, _text_of(raw, encoding) as text:
            if kind == "jsonl":
                lines = ((number, line) for number, line in enumerate(text, start=1) if line.strip())
                first = next(lines, None)
                if first is None:
                    raise DatasetError(f"{path}: the file is empty")
                return list(_json_object(path, *first)), 1 + sum(1 for _ in lines)
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


def _csv_frames(path: Path, encoding: str) -> Generator[pd.DataFrame, None, None]:
    # index_col=False: a row with one field too many must not turn the first column into an index.
    try:
        with pd.read_csv(
            path, chunksize=ROWS_PER_FRAME, dtype=str, keep_default_na=False, encoding=encoding, index_col=False
        ) as frames:
            yield from frames
    except (pd.errors.ParserError, UnicodeDecodeError) as exc:
        raise DatasetError(f"{path}: cannot be read: {exc}") from exc


def _jsonl_frames(path: Path, encoding: str) -> Generator[pd.DataFrame, None, None]:
    # Not pandas.read_json: it turns ids into floats where one is missing, and knows no byte order mark.
    with _open_bytes(path) as raw, _text_of(raw, encoding) as text:
        numbered = ((number, line) for number, line in enumerate(text, start=1) if line.strip())
        while chunk := list(islice(numbered, ROWS_PER_FRAME)):
            yield pd.DataFrame([_json_object(path, number, line) for number, line in chunk], dtype=object)


def _json_object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError as exc:
        raise DatasetError(f"{path}: line {number} is not JSON: {exc}") from exc
    if not isinstance(row, dict):
        raise DatasetError(f"{path}: line {number} is not a JSON object")
    # JSON can escape half a character (a lone surrogate), which no UTF-8 can hold.
    return {k: v.encode(errors="ignore").decode() if isinstance(v, str) else v for k, v in row.items()}


def _xlsx_frames(path: Path) -> Generator[pd.DataFrame, None, None]:
    # pandas.read_excel holds the whole sheet; openpyxl's read-only mode streams it.
    book = openpyxl.load_workbook(path, read_only=True)
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [str(name or "") for name in next(rows)]
        filled = (row for row in rows if any(cell is not None for cell in row))
        while chunk := list(islice(filled, ROWS_PER_FRAME)):
            # A sheet that does not say its size gives rows without their empty cells at the end.
            even = [(row + (None,) * len(header))[: len(header)] for row in chunk]
            frame = pd.DataFrame(even, columns=header, dtype=object)
            yield frame.loc[:, ~frame.columns.duplicated()]
    finally:
        book.close()
