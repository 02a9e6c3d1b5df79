"""The sample corpus as a set in BEIR's layout."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from evaluation.sets import open_set
from setup_milvus.datasets import Tally


def write_sample(folder: Path, *, unanswerable: Iterable[str] = ()) -> Path:
    """Write it, and with it questions that the corpus does not answer; the folder."""
    sample = open_set(None, "sample")
    documents = [
        {"_id": document.id, "title": document.title, "text": document.text}
        for document in sample.dataset().documents(Tally())
    ]
    questions: list[dict[str, object]] = [
        {"_id": question.id, "text": question.text, "metadata": {"answers": question.answers, "is_impossible": False}}
        for question in sample.questions
    ]
    questions += [
        {"_id": f"un{number}", "text": text, "metadata": {"answers": [], "is_impossible": True}}
        for number, text in enumerate(unanswerable)
    ]
    gzipped(folder / "corpus.jsonl.gz", documents)
    gzipped(folder / "queries.dev.jsonl.gz", questions)
    rows = [f"{id}\t{document}\t1" for id, found in sample.judgements.items() for document in found]
    (folder / "qrels.dev.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n", encoding="utf-8")
    return folder


def gzipped(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a gzipped file of JSON lines, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
