"""Training a cross-encoder: which questions, which negatives, and that it learns; on toy sets and tiny models."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from app_llm.reranker import CrossEncoderReranker
from app_llm.simulated import OverlapReranker
from contracts.types import Pair
from setup_milvus.datasets import Dataset, Tally
from tests.support.cross_encoders import tiny_cross_encoder
from training import cross_encoder
from training.loop import Recipe, examples, train
from training.mining import Candidate, Mined, NotAsMined, NothingFound, gateway_search, load, mine, save
from training.questions import BEIR_COLUMNS, NoQuestions, Part, Question, licence_of, split
from training.validation import held_out, ndcg, validate

ARTICLES, PARAGRAPHS = 12, 3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a tiny model more than its work, and most where others compute too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def beir(folder: Path) -> Path:
    """Twelve articles of three paragraphs, each with a question that has its words."""
    folder.mkdir(parents=True)
    corpus, queries = [], []
    for a in range(ARTICLES):
        for p in range(PARAGRAPHS):
            words = f"{'abcdefghijkl'[a] * 3} {'xyz'[p] * 3}"
            corpus.append({"_id": f"a{a}p{p}", "title": f"Article {a}", "text": f"it says {words} here"})
            queries.append({"_id": f"q{a}{p}", "text": f"{words}?"})
    for name, rows in (("corpus", corpus), ("queries.dev", queries)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    with (folder / "qrels.dev.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["query-id", "corpus-id", "score"])
        writer.writerows([f"q{a}{p}", f"a{a}p{p}", 1] for a in range(ARTICLES) for p in range(PARAGRAPHS))
        writer.writerow(["q00", "a1p0", 0])
    (folder / "PROVENANCE.md").write_text("# toys\n\n- Licence as stated: CC0\n")
    return folder


def rewrite(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    """The lines of `file`, less its ending .jsonl.gz, as `change` makes them."""
    path = file.with_name(f"{file.name}.jsonl.gz")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    path.write_bytes(gzip.compress("".join(change(lines)).encode()))


async def by_words(folder: Path, question: str) -> Sequence[Candidate]:
    """Every passage of the set, by the question's words."""
    documents = list(Dataset.open(folder / "corpus.jsonl.gz", BEIR_COLUMNS).documents(Tally()))
    scores = (await OverlapReranker().rerank([Pair(question, document.text) for document in documents])).scores
    order = np.argsort(-scores, kind="stable")
    return [Candidate(documents[i].id, f"{documents[i].title}\n{documents[i].text}") for i in order]


async def mined_of(folder: Path, share: float = 0.3) -> list[Mined]:
    (questions,) = split([folder], share)
    chosen = [(part, q) for part in ("training", "validation") for q in questions.of(part)]  # type: ignore[arg-type]
    return await mine(questions, chosen, lambda question: by_words(folder, question))  # type: ignore[arg-type]


def test_every_paragraph_of_an_article_is_on_one_side(tmp_path: Path) -> None:
    (questions,) = split([beir(tmp_path / "toys")], 0.3)
    sides = [{q.id[:-1] for q in questions.of(part)} for part in ("training", "validation")]  # type: ignore[arg-type]
    assert all(sides)
    assert sides[0] & sides[1] == set()
    assert len(questions.of("training")) + len(questions.of("validation")) == ARTICLES * PARAGRAPHS
    assert questions.side("of another set") is None


def test_what_the_first_questions_are_about_can_be_held_out(tmp_path: Path) -> None:
    (questions,) = split([beir(tmp_path / "toys")], 0.3, hold_out_first=PARAGRAPHS + 1)
    held = {q.id for q in questions.of("validation")}
    assert held == {f"q{a}{p}" for a in (0, 1) for p in range(PARAGRAPHS)}, "all of the two articles, and no other"
    assert len(questions.of("training")) == (ARTICLES - 2) * PARAGRAPHS


def test_a_question_with_documents_on_both_sides_is_on_neither(tmp_path: Path) -> None:
    folder = beir(tmp_path / "toys")
    (before,) = split([folder], 0.3)
    on = {part: before.of(part)[0].id for part in ("training", "validation")}
    with (folder / "qrels.dev.tsv").open("a") as file:
        file.write(f"{on['training']}\ta{on['validation'][1:-1]}p0\t1\n")
    (after,) = split([folder], 0.3)
    for part in ("training", "validation"):
        assert on["training"] not in {q.id for q in after.of(part)}  # type: ignore[arg-type]


@pytest.mark.parametrize("hold_out_first", [0, 4])
def test_an_article_of_two_sets_is_on_one_side_in_both(tmp_path: Path, hold_out_first: int) -> None:
    """The other set asks about the articles in another order, writes their titles in another way and lacks some."""
    first, second = beir(tmp_path / "first"), beir(tmp_path / "second")
    for file in ("corpus", "queries.dev"):
        rewrite(
            second / file, lambda rows: [row.replace("Article ", "article_") for row in rows[: PARAGRAPHS - 1 : -1]]
        )
    one, other = split([first, second], 0.3, hold_out_first)
    sides = [{part: {q.id for q in each.of(part)} for part in ("training", "validation")} for each in (one, other)]  # type: ignore[arg-type]
    assert all(map(len, (side for each in sides for side in each.values())))
    assert not sides[0]["training"] & sides[1]["validation"]
    assert not sides[1]["training"] & sides[0]["validation"]
    if hold_out_first:
        assert {id[:-1] for id in sides[0]["validation"]} == {"q0", "q1", "q10", "q11"}


def test_documents_without_a_title_have_nothing_in_common_with_those_of_another_set(tmp_path: Path) -> None:
    folders = [beir(tmp_path / name) for name in ("first", "second")]
    for folder in folders:
        rewrite(folder / "corpus", lambda rows: [re.sub(r'"title": "[^"]*"', '"title": ""', row) for row in rows])
    rewrite(folders[1] / "queries.dev", lambda rows: rows[::-1])
    held = [[q.id for q in questions.of("validation")] for questions in split(folders, 0.3, hold_out_first=1)]
    assert held == [["q00"], [f"q{ARTICLES - 1}{PARAGRAPHS - 1}"]], "ids are the same in both sets"


async def test_what_is_held_out_is_neither_answer_nor_negative(tmp_path: Path) -> None:
    folder = beir(tmp_path / "toys")
    mined = await mined_of(folder)
    held_out = {text for each in mined if each.part == "validation" for text in _answers(each)}
    given = examples(mined)
    assert held_out
    assert len(given) == sum(each.part == "training" for each in mined)
    for example in given:
        seen = {example.positive, *example.negatives}
        assert not seen & held_out
        assert example.positive not in example.negatives


async def test_what_was_mined_survives_a_file(tmp_path: Path) -> None:
    mined = await mined_of(beir(tmp_path / "toys"))
    options = {"--set": ["toys"], "--hold-out-first": 0, "--validation-share": 0.3}
    save(mined, options, tmp_path / "deep" / "mined.gz")
    assert load(tmp_path / "deep" / "mined.gz", options) == mined


def test_what_was_mined_with_other_options_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mined.gz"
    save([], {"--set": ["a", "b"], "--hold-out-first": 0, "--mode": "hybrid"}, path)
    with pytest.raises(
        NotAsMined, match=r"mined with --set a and b, not a; --hold-out-first 0, not 300: give the same"
    ):
        load(path, {"--set": ["a"], "--hold-out-first": 300, "--mode": "hybrid"})


def gzipped(content: bytes) -> bytes:
    """Without the time in it, so that a test has the same name in every process."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzipped(b'{"document": "d", "text": "of an earlier version"}\n'), "does not say with which options"),
        (b"", "does not say with which options"),
        (b"no archive", "cannot be read"),
        (gzipped(b"no JSON\n"), "cannot be read"),
        (gzipped(b'{"options": {}}\n' * 9)[:-12], "cannot be read"),
    ],
)
def test_a_file_that_was_not_mined_or_only_in_part_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "mined.gz").write_bytes(content)
    with pytest.raises(NotAsMined, match=f"{said}.*delete it to mine again"):
        load(tmp_path / "mined.gz", {})


async def test_the_search_of_another_set_is_found_out(tmp_path: Path) -> None:
    (questions,) = split([beir(tmp_path / "toys")], 0.3)

    async def elsewhere(_: str) -> Sequence[Candidate]:
        return [Candidate("not of toys", "text")]

    with pytest.raises(NothingFound, match="toys"):
        await mine(questions, [("training", questions.of("training")[0])], elsewhere)


async def test_the_gateway_is_asked_for_what_a_reranker_would_see() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((str(request.url), json.loads(request.content)))
        passage = {"id": "p", "document_id": "d", "title": "A title", "text": "a text"}
        return httpx.Response(200, json={"hits": [{"rank": 1, "score": 1.0, "passage": passage}]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        found = await gateway_search(http, "http://gateway", 30, "hybrid")("Why?")
    assert found == [Candidate("d", "A title\na text")]
    body = {"question": "Why?", "mode": "hybrid", "top_k": 30, "rerank": False, "stages": False}
    assert asked == [("http://gateway/search", body)]


def test_a_folder_without_questions_is_refused(tmp_path: Path) -> None:
    folder = beir(tmp_path / "toys")
    (folder / "qrels.dev.tsv").write_text("query-id\tcorpus-id\tscore\nq00\tunknown\t1\n")
    with pytest.raises(NoQuestions, match="no question"):
        split([folder], 0.2)
    (folder / "qrels.dev.tsv").unlink()
    with pytest.raises(NoQuestions, match="0 files qrels"):
        split([folder], 0.2)


def test_licences_are_those_stated(tmp_path: Path) -> None:
    assert licence_of(beir(tmp_path / "toys")) == "CC0"
    assert "not stated" in licence_of(tmp_path)


@pytest.mark.parametrize(
    ("documents", "relevant", "expected"),
    [
        ("ab", "a", 1.0),
        ("ba", "a", 1 / np.log2(3)),
        ("bba", "a", 1 / np.log2(3)),  # a document counts at its best passage only
        ("cd", "a", 0.0),
        ("ab", "ac", 1 / (1 + 1 / np.log2(3))),
        ("bcdefghijka", "a", 0.0),  # the eleventh
    ],
)
def test_ndcg(documents: str, relevant: str, expected: float) -> None:
    assert ndcg(list(documents), frozenset(relevant)) == pytest.approx(expected)


def test_validation_orders_by_score_and_counts_what_was_not_found() -> None:
    class ByLength:
        def predict(self, pairs: Sequence[Sequence[str]], **_: object) -> list[float]:
            return [float(len(text)) for _, text in pairs]

    found = (
        Candidate("wrong", "short"),
        Candidate("right", "a longer text"),
        Candidate("beyond", "the longest of all"),
    )
    question = Question("q", "which?", frozenset(["right"]))
    mined = [
        Mined("toys", "validation", question, found, frozenset()),
        Mined("toys", "validation", question, (), frozenset()),
        Mined("toys", "training", question, found, frozenset()),
    ]
    (order,) = validate(ByLength(), mined, candidates=2)
    assert (order.set, order.questions) == ("toys", 2)
    assert order.searched == pytest.approx(1 / np.log2(3) / 2)
    assert order.reranked == pytest.approx(0.5)


def test_validation_asks_the_first_of_each_set() -> None:
    question = Question("q", "which?", frozenset(["right"]))
    parts: list[Part] = ["training", "validation", "validation", "validation"]
    mined = [Mined(name, part, question, (), frozenset()) for name in "ab" for part in parts]
    assert [(each.set, each.part) for each in held_out(mined, 2)] == [(name, "validation") for name in "aabb"]
    assert len(held_out(mined)) == 6


def test_validation_weighs_probabilities_whatever_activation_a_model_was_saved_with(tmp_path: Path) -> None:
    """Logits that are all 3 say nothing, so a prior leaves the search's order; taken for probabilities they would make
    the odds of all but the first negative."""
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(tiny_cross_encoder(tmp_path / "tiny")), device="cpu", activation_fn=torch.nn.Identity())
    with torch.no_grad():
        model.model.classifier.weight.zero_()
        model.model.classifier.bias.fill_(3.0)
    found = tuple(Candidate(name, f"text {name}") for name in ("a", "right", "c", "d"))
    mined = [Mined("toys", "validation", Question("q", "which?", frozenset(["right"])), found, frozenset())]
    (order,) = validate(model, mined, candidates=4, prior=1.0)
    assert order.reranked == order.searched == pytest.approx(1 / np.log2(3))


async def test_it_learns_what_it_is_shown(tmp_path: Path) -> None:
    """A tiny model learns that passages with "xxx" answer, which nothing but training can tell it."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(tiny_cross_encoder(tmp_path / "tiny", window=64)), device="cpu")
    question = Question("q", "which?", frozenset(["d"]))
    found = tuple(Candidate("d" if i == 3 else f"n{i}", f"it is {'xxx' if i == 3 else 'abc'[i] * 3}") for i in range(4))
    mined = [Mined("toys", "training", question, found, frozenset())] * 8
    embeddings = model.model.get_input_embeddings().weight.detach().clone()
    recipe = Recipe(epochs=20, learning_rate=1e-2, negatives=3, questions_per_step=4)
    first = train(model, examples(mined), Recipe(epochs=0.5, learning_rate=0, negatives=3, questions_per_step=4))
    after = train(model, examples(mined), recipe)
    assert (first.steps, after.steps, after.pairs) == (1, 40, 40 * 4 * 4)
    assert after.loss < 0.5 * first.loss
    scores = (await CrossEncoderReranker(model, 8).rerank([Pair("which?", c.text) for c in found])).scores
    assert int(scores.argmax()) == 3
    assert scores[3] > 0.5 > scores[:3].mean(), "the sigmoid means something"
    assert (model.model.get_input_embeddings().weight == embeddings).all()


async def test_bfloat16_is_computed_in_and_not_kept(tmp_path: Path) -> None:
    """On any processor: one that has no such arithmetic converts. The loss is the same to bfloat16's three digits."""
    import torch
    from sentence_transformers import CrossEncoder

    given = examples(await mined_of(beir(tmp_path / "toys")))
    folder = str(tiny_cross_encoder(tmp_path / "tiny"))
    losses = []
    for bfloat16 in (False, True):
        model = CrossEncoder(folder, device="cpu")
        losses.append(train(model, given, Recipe(epochs=1, questions_per_step=len(given), bfloat16=bfloat16)).loss)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    full, short = losses
    assert short == pytest.approx(full, rel=0.05)
    assert short != full, "it was another arithmetic"


async def test_frozen_layers_stay_and_the_others_move(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(tiny_cross_encoder(tmp_path / "tiny")), device="cpu")
    before = {name: value.detach().clone() for name, value in model.model.named_parameters()}
    given = examples(await mined_of(beir(tmp_path / "toys")))
    train(model, given, Recipe(epochs=1, learning_rate=1e-2, questions_per_step=8, frozen_layers=1))
    moved = {name for name, value in model.model.named_parameters() if (value != before[name]).any()}
    assert not any("embeddings" in name or "layer.0." in name for name in moved)
    assert any("layer.1." in name for name in moved)
    with pytest.raises(ValueError, match="cannot freeze 3 layers"):
        train(model, given, Recipe(frozen_layers=3))


async def test_time_ends_it(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(tiny_cross_encoder(tmp_path / "tiny")), device="cpu")
    given = examples(await mined_of(beir(tmp_path / "toys")))
    assert train(model, given, Recipe(epochs=1e6, seconds=0.2)).steps < 1000


def command(folder: Path, *more: str) -> list[str]:
    """A short training of a tiny model on what `mined_of` finds in `folder`, and `more` options, which win."""
    import asyncio

    mined, tiny = folder.parent / "mined.gz", folder.parent / "tiny"
    arguments = (
        f"--data {folder.parent} --set {folder.name} --name toy --mined {mined} --validation-share 0.3 --epochs 1"
    )
    given = [*arguments.split(), "--model", str(tiny), "--max-length", "24", "--batch", "8", "--device", "cpu"]
    if not mined.exists():
        tiny_cross_encoder(tiny)
        save(asyncio.run(mined_of(folder)), cross_encoder.mining_options(cross_encoder.parse(given)), mined)
    return [*given, *more]


def test_the_command_trains_saves_and_says_what_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    from safetensors import safe_open

    monkeypatch.chdir(tmp_path)
    assert cross_encoder.main(command(beir(tmp_path / "data" / "toys"), "--validation-questions", "4")) == 0
    saved = tmp_path / "volumes/models/own/toy"
    assert capsys.readouterr().out == "volumes/models/own/toy\n"
    with safe_open(saved / "model.safetensors", "pt") as weights:
        assert "classifier.weight" in weights.keys()  # noqa: SIM118 - not a mapping
    page = (saved / "README.md").read_text()
    assert "- toys: CC0" in page
    assert "16 questions, 2 steps" in page
    assert "**It makes the order of toys no better" in page, "with random weights and two steps"
    assert str(tmp_path) not in page
    lines = (saved / "validation.tsv").read_text().splitlines()
    assert len(lines) == 4, "of those in the file"
    assert "| toys | 4 |" in page
    assert all(line.startswith("toys\tq") for line in lines)
    reranker = asyncio.run(CrossEncoderReranker.load(str(saved), "cpu", 1, 8))
    assert reranker.window == 24


@pytest.mark.parametrize(
    "option",
    ["--set other", "--hold-out-first 3", "--validation-share 0.4", "--mode dense", "--candidates 9", "--questions 9"],
)
def test_the_command_trains_on_nothing_that_was_mined_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    """What the file holds out is not what this run promises to."""
    arguments = command(beir(tmp_path / "toys"), *option.split())
    assert cross_encoder.main(arguments) == 1
    assert f"mined with {option.split()[0]} " in caplog.text
    assert "give the same options, or delete it" in caplog.text
    assert (
        cross_encoder.main([*command(tmp_path / "toys"), "--search", "http://elsewhere", "--frozen-layers", "9"]) == 1
    )
    assert "cannot freeze" in caplog.text, "what only the search or the training needs may differ"


def test_without_a_gateway_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beir(tmp_path / "toys")
    arguments = f"--data {tmp_path} --set toys=http://127.0.0.1:9 --name toy"
    assert cross_encoder.main(arguments.split()) == 1
    assert capsys.readouterr().out == ""


def _answers(mined: Mined) -> set[str]:
    return {c.text for c in mined.candidates if c.document in mined.question.relevant}
