"""Readers: the same rows in any format are the same documents; a file that cannot be read says what to do."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import openpyxl
import pytest

from contracts.collection import TITLE_BYTES_MAX, TOPIC_BYTES_MAX
from setup_milvus.datasets import NO_TOPIC, Columns, Dataset, Document, Tally
from setup_milvus.readers import DatasetError

HEADER = ("Article", "Date", "Heading", "NewsType")
ROWS = (
    ("Rain fell on Karachi.\nIt was the first, in months.", "2/3/2024", "Rain at last", "weather"),
    ('He said "never", twice.', "12/31/2023", "Köln loses 3–1", "sports"),
    ("NA", "null", "None", "nan"),
    ("Seats: 007", "1/1/2024", "2024", "politics"),
)

Row = Sequence[str]


def csv_text(rows: Sequence[Row], header: Row = HEADER) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([header, *rows])
    return out.getvalue()


def write_csv(path: Path, rows: Sequence[Row] = ROWS, header: Row = HEADER, encoding: str = "utf-8") -> Path:
    path.write_bytes(csv_text(rows, header).encode(encoding))
    return path


def write_csv_gz(path: Path, rows: Sequence[Row]) -> Path:
    path.write_bytes(gzip.compress(csv_text(rows).encode()))
    return path


def write_xlsx(path: Path, rows: Sequence[Sequence[object]], header: Row = HEADER) -> Path:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for row in (header, *rows):
        sheet.append(list(row))
    book.save(path)
    return path


def json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text(json_lines(rows), encoding="utf-8")
    return path


def write_jsonl_gz(path: Path, rows: Sequence[Row]) -> Path:
    path.write_bytes(gzip.compress(json_lines(rows).encode()))
    return path


def read(
    path: Path, columns: Columns | None = None, encoding: str | None = None, limit: int | None = None
) -> tuple[list[Document], Tally]:
    tally = Tally()
    documents = list(Dataset.open(path, columns or Columns(), encoding).documents(tally, limit))
    return documents, tally


WRITERS = [
    ("news.csv", write_csv),
    ("news.csv.gz", write_csv_gz),
    ("NEWS.CSV.GZ", write_csv_gz),
    ("news.xlsx", write_xlsx),
    ("news.jsonl", write_jsonl),
    ("news.jsonl.gz", write_jsonl_gz),
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_the_same_rows_are_the_same_documents_in_every_format(
    tmp_path: Path, name: str, write: Callable[[Path, Sequence[Row]], Path]
) -> None:
    documents, tally = read(write(tmp_path / name, ROWS))
    assert documents == read(write_csv(tmp_path / "reference.csv"))[0]
    assert (tally.rows, tally.documents, tally.dropped.total()) == (4, 4, 0)
    assert documents[0].text == "Rain fell on Karachi.\nIt was the first, in months."
    assert (documents[0].date, documents[0].title, documents[0].topic) == ("2024-02-03", "Rain at last", "weather")
    assert documents[1].title == "Köln loses 3–1"


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_the_number_of_rows_is_known_beforehand(
    tmp_path: Path, name: str, write: Callable[[Path, Sequence[Row]], Path]
) -> None:
    assert Dataset.open(write(tmp_path / name, ROWS * 3), Columns()).rows == 12


def test_words_that_look_like_missing_values_are_words(tmp_path: Path) -> None:
    document = read(write_csv(tmp_path / "news.csv"))[0][2]
    assert (document.text, document.title, document.topic, document.date) == ("NA", "None", "nan", "null")


def test_ids_differ_where_any_part_of_a_row_does(tmp_path: Path) -> None:
    rows = [
        ("text", "2/3/2024", "heading", "topic"),
        ("text.", "2/3/2024", "heading", "topic"),
        ("text", "2/4/2024", "heading", "topic"),
        ("text", "2/3/2024", "Heading", "topic"),
        ("text", "2/3/2024", "heading", "Topic"),
        ("text", "2/3/2024", "", "headingtopic"),
    ]
    documents, _ = read(write_csv(tmp_path / "news.csv", rows))
    assert len({document.id for document in documents}) == len(rows)


@pytest.mark.parametrize(
    ("encoding", "found"), [("utf-8", "utf-8-sig"), ("utf-8-sig", "utf-8-sig"), ("cp1252", "cp1252")]
)
def test_the_encoding_is_found_and_gives_the_same_documents(tmp_path: Path, encoding: str, found: str) -> None:
    rows = [("“It’s over” – she said — at ‘home’ • today… Zürich", "2/3/2024", "Köln’s “end”", "News–Type")]
    path = write_csv(tmp_path / "news.csv", rows, encoding=encoding)
    assert Dataset.open(path, Columns()).encoding == found
    ((document,), tally) = read(path)
    assert (document.text, document.title, document.topic) == (rows[0][0], rows[0][2], rows[0][3])
    assert tally.mended.total() == 0


def test_bytes_0x91_to_0x97_are_quotes_bullets_and_dashes(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_bytes(b"Article,Date,Heading,NewsType\n\x91one\x92 \x93two\x94 \x95 \x96 \x97,,\x93h\x94,t\n")
    ((document,), _) = read(path)
    assert (document.text, document.title) == ("‘one’ “two” • – —", "“h”")


def test_a_cp1252_file_read_as_latin_1_still_gives_quotes_and_says_so(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "news.csv", [("“It’s over” – she said", "", "h", "t")], encoding="cp1252")
    ((document,), tally) = read(path, encoding="latin-1")
    assert document.text == "“It’s over” – she said"
    assert tally.mended == {"control characters of a wrong decoding": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "cp1251", "shift_jis"])
def test_an_encoding_that_is_given_is_used(tmp_path: Path, encoding: str) -> None:
    text = "Дождь над городом" if encoding != "shift_jis" else "東京は雨です"
    path = write_csv(tmp_path / "news.csv", [(text, "", "h", "t")], encoding=encoding)
    assert read(path, encoding=encoding)[0][0].text == text


def test_a_file_in_neither_encoding_asks_for_one(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_bytes(b"Article,Date,Heading,NewsType\none \x81\x8d two,,h,t\n")
    with pytest.raises(DatasetError, match=r"neither UTF-8 nor cp1252.*--encoding"):
        read(path)


def test_a_wrong_encoding_says_so(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "news.csv", [("Köln", "", "h", "t")], encoding="cp1252")
    with pytest.raises(DatasetError, match=r"is not utf-8.*--encoding"):
        read(path, encoding="utf-8")


def test_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="klingon"):
        read(write_csv(tmp_path / "news.csv"), encoding="klingon")


def test_date_cells_of_a_sheet_are_the_dates_of_a_csv(tmp_path: Path) -> None:
    text, _, title, topic = ROWS[0]
    cells = [(text, when, title, topic) for when in (dt.date(2024, 2, 3), dt.datetime(2024, 2, 3, 17, 30))]
    documents, tally = read(write_xlsx(tmp_path / "news.xlsx", cells))
    assert documents == read(write_csv(tmp_path / "news.csv", ROWS[:1]))[0]
    assert (tally.dropped, tally.mended) == ({"duplicate": 1}, {})


def test_numbers_in_a_sheet_are_text(tmp_path: Path) -> None:
    ((document,), _) = read(write_xlsx(tmp_path / "news.xlsx", [("Seats: 7", None, 2024, 3.5)]))
    assert (document.title, document.topic, document.date) == ("2024", "3.5", "")


def test_empty_rows_of_a_sheet_are_no_rows(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "news.xlsx", [ROWS[0], (None, None, None, None), ROWS[1]])
    assert Dataset.open(path, Columns()).rows == 2
    assert read(path)[1].rows == 2


def test_an_id_column_is_part_of_the_identity(tmp_path: Path) -> None:
    rows = [{"id": key, "Article": "Rain fell.", "Heading": "Rain", "NewsType": "weather"} for key in (7, 8, 7)]
    path = tmp_path / "news.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents, tally = read(path, Columns(id="id"))
    assert len({document.id for document in documents}) == 2
    assert tally.dropped == {"duplicate": 1}
    assert read(path)[1].dropped == {"duplicate": 2}


def test_ids_are_the_same_whether_written_as_csv_or_jsonl(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "news.csv", [("Rain fell.", "007"), ("Rain fell.", "8")], ("Article", "id"))
    lines = tmp_path / "news.jsonl"
    lines.write_text('{"Article": "Rain fell.", "id": "007"}\n{"Article": "Rain fell.", "id": "8"}\n')
    columns = Columns("Article", "", "", "", "id")
    documents, _ = read(table, columns)
    assert len(documents) == 2
    assert read(lines, columns)[0] == documents


def test_other_columns_can_be_named_or_be_missing(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "news.csv", [("Rain fell.", "weather")], ("body", "section"))
    ((document,), _) = read(path, Columns(text="body", title="", topic="section", date=""))
    assert (document.text, document.title, document.topic, document.date) == ("Rain fell.", "", "weather", "")


@pytest.mark.parametrize("write", [write_csv, write_xlsx])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / f"news.{write.__name__.removeprefix('write_')}", [("a", "b")], ("Article", "section"))
    with pytest.raises(DatasetError) as refusal:
        read(path)
    said = str(refusal.value)
    assert "no column 'Heading', 'NewsType', 'Date'" in said
    assert "it has 'Article', 'section'" in said
    assert "--topic-column" in said


@pytest.mark.parametrize("name", ["news.csv", "news.csv.gz", "news.xlsx"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("xlsx"):
        openpyxl.Workbook().save(path)
    else:
        path.write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    with pytest.raises(DatasetError, match="empty"):
        read(path)


@pytest.mark.parametrize("name", ["news.csv.gz", "news.jsonl.gz", "news.xlsx"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"neither zip nor gzip")
    with pytest.raises(DatasetError, match=r"cannot be read|not a readable"):
        read(path)


def test_a_cut_off_gzip_is_an_error(tmp_path: Path) -> None:
    path = write_csv_gz(tmp_path / "news.csv.gz", ROWS * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="cannot be read"):
        read(path)


def test_a_header_alone_gives_no_documents(tmp_path: Path) -> None:
    documents, tally = read(write_csv(tmp_path / "news.csv", []))
    assert (documents, tally) == ([], Tally())


@pytest.mark.parametrize("name", ["news.txt", "news.parquet", "news.gz", "news", "csv"])
def test_other_suffixes_are_refused_and_the_right_ones_named(tmp_path: Path, name: str) -> None:
    write_csv(tmp_path / name)
    with pytest.raises(DatasetError, match=r"not a \.csv, \.csv\.gz, \.xlsx, \.jsonl"):
        read(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.csv: no such file"):
        read(tmp_path / "nowhere.csv")


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    padded = (f"  {ROWS[0][0]} ", *ROWS[0][1:])
    documents, tally = read(write_csv(tmp_path / "news.csv", [*ROWS, *ROWS, padded]))
    assert len(documents) == 4
    assert (tally.rows, tally.documents, tally.dropped) == (9, 4, {"duplicate": 5})


def test_rows_without_text_are_dropped_and_counted(tmp_path: Path) -> None:
    blank = [(text, "2/3/2024", "Heading", "topic") for text in ("", "  ", "\xa0", "<br/>", "&nbsp;")]
    documents, tally = read(write_csv(tmp_path / "news.csv", [*blank, ROWS[0]]))
    assert [document.title for document in documents] == ["Rain at last"]
    assert (tally.rows, tally.documents, tally.dropped) == (6, 1, {"no text": 5})
    assert tally.mended.total() == 0


def test_a_document_without_a_topic_is_filed_under_the_general_one_and_counted(tmp_path: Path) -> None:
    rows = [("one", "", "h", ""), ("two", "", "h", " "), ("three", "", "h", "sports")]
    documents, tally = read(write_csv(tmp_path / "news.csv", rows))
    assert [document.topic for document in documents] == [NO_TOPIC, NO_TOPIC, "sports"]
    assert NO_TOPIC == "general"
    assert tally.mended == {"no topic, filed under 'general'": 2}


def test_a_date_that_is_not_understood_is_kept_and_counted(tmp_path: Path) -> None:
    documents, tally = read(write_csv(tmp_path / "news.csv", [("one", "31/12/2023", "h", "t")]))
    assert documents[0].date == "31/12/2023"
    assert tally.mended == {"date not understood, kept as written": 1}


def test_headings_and_topics_are_cut_to_what_milvus_takes(tmp_path: Path) -> None:
    documents, tally = read(write_csv(tmp_path / "news.csv", [("one", "", "é" * 2000, "ß" * 2000)]))
    assert len(documents[0].title.encode()) == TITLE_BYTES_MAX
    assert len(documents[0].topic.encode()) == TOPIC_BYTES_MAX
    assert tally.mended == {"heading or topic cut to its limit": 1}


@pytest.mark.parametrize(("limit", "rows", "documents"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 2), (99, 5, 3)])
def test_the_limit_counts_rows_also_those_that_are_dropped(
    tmp_path: Path, limit: int, rows: int, documents: int
) -> None:
    path = write_xlsx(tmp_path / "news.xlsx", [ROWS[0], ROWS[0], (" ", "", "", ""), ROWS[1], ROWS[3]])
    found, tally = read(path, limit=limit)
    assert (tally.rows, len(found)) == (rows, documents)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rows = 30_000  # all of them at once would take more than 15 MB
    path = tmp_path / "news.csv"
    with path.open("w") as file:
        file.write("Article,Date,Heading,NewsType\n")
        file.writelines(f"Report {i} from the harbour.,2/3/2024,Heading {i},sports\n" for i in range(rows))
    tracemalloc.start()
    try:
        count = sum(1 for _ in Dataset.open(path, Columns()).documents(Tally()))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == rows
    assert peak_bytes < 8e6
