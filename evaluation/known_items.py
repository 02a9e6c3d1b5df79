"""`python -m evaluation.known_items`: a set of questions out of documents that nobody has judged.

    python -m evaluation.known_items --dataset Articles.csv.gz --out FOLDER/news

Known-item search (Ogilvie and Callan, SIGIR 2003): a document's heading is the question and the document is what is to
be found, in a corpus without headings. Easier than questions of people, who do not use the document's words; it serves
to compare ways of searching over documents of one's own, and has dates where they have. Of the questions that are
dated, the splits `older` and `newer` hold the half whose documents are older, and newer.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from setup_milvus.datasets import Columns, Dataset, Document, Tally
from setup_milvus.readers import DatasetError

WORDS_MIN = 3
"""A heading of fewer words is no question."""


def asked_about(documents: Sequence[Document], limit: int) -> list[Document]:
    """The documents whose heading is the question: `limit` of them from the whole sequence, none of whose headings is
    another's too."""
    headings = Counter(document.title.casefold() for document in documents)
    able = [one for one in documents if headings[one.title.casefold()] == 1 and len(one.title.split()) >= WORDS_MIN]
    return able if limit >= len(able) else [able[number * len(able) // limit] for number in range(limit)]


def splits(asked: Sequence[Document]) -> dict[str, list[Document]]:
    """`dev` has all of them, `older` and `newer` halves of those with a date."""
    dated = sorted((one for one in asked if one.date), key=lambda one: one.date)
    half = len(dated) // 2
    return {"dev": list(asked), "older": dated[:half], "newer": dated[half:]}


def write(documents: Sequence[Document], limit: int, folder: Path) -> dict[str, int]:
    """The set in BEIR's layout; how many questions each split has."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ({"_id": one.id, "title": "", "text": one.text, "date": one.date} for one in documents)
    _write(folder / "corpus.jsonl.gz", rows)
    parts = splits(asked_about(documents, limit))
    for split, asked in parts.items():
        _write(folder / f"queries.{split}.jsonl.gz", ({"_id": one.id, "text": one.title} for one in asked))
        lines = ["query-id\tcorpus-id\tscore", *(f"{one.id}\t{one.id}\t1" for one in asked)]
        (folder / f"qrels.{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {split: len(asked) for split, asked in parts.items()}


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.known_items", description="Headings as questions.")
    parser.add_argument("--dataset", type=Path, required=True, metavar="FILE", help="as setup_milvus reads it")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the set's folder")
    parser.add_argument("--documents", type=int, metavar="N", help="the first N rows; default: all")
    parser.add_argument("--questions", type=int, default=200, metavar="N", help="default: %(default)s")
    defaults = Columns()
    parser.add_argument("--text-column", default=defaults.text, help="default: %(default)s")
    parser.add_argument("--title-column", default=defaults.title, help="default: %(default)s")
    parser.add_argument("--date-column", default=defaults.date, help="default: %(default)s")
    options = parser.parse_args(arguments)
    columns = Columns(options.text_column, options.title_column, "", options.date_column)
    try:
        documents = list(Dataset.open(options.dataset, columns).documents(Tally(), options.documents))
    except DatasetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    counts = write(documents, options.questions, options.out)
    print(f"{options.out}: {len(documents)} documents, questions: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
