"""Train a cross-encoder of our own on the judged questions of data sets in BEIR's layout.

    python -m training.cross_encoder --data FOLDER --set squad_v1 --name minilm-squad

FOLDER/squad_v1 holds corpus, queries and qrels; a running gateway (--search, or --set NAME=URL for several sets) serves
the same corpus. Its POST /search gives each question the passages a reranker would see: one that answers is to be told
from those that do not. Some documents are held out, with every question about them, to validate on.

From the packaged MiniLM this takes up to an hour on two CPU cores (--minutes). The same command with --model, --batch,
a lower --learning-rate and more --epochs trains a larger one where torch finds a GPU; what has been mined is kept
(--mined) and can be brought there, where no services are needed. See docs/reranking.md.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from setup_milvus.readers import DatasetError
from training.loop import Recipe, examples, train
from training.mining import Mined, NotAsMined, NothingFound, gateway_search, load, mine, save
from training.model_card import readme
from training.questions import NoQuestions, Part, Question, licence_of, split
from training.validation import held_out, validate

log = logging.getLogger(__name__)

OWN = Path("volumes/models/own")
MINILM = "volumes/models/all-MiniLM-L6-v2"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m training.cross_encoder", description="Train a cross-encoder on judged questions."
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="where the sets' folders are")
    add("--set", action="append", required=True, dest="sets", metavar="NAME[=URL]", help="a set, and who searches it")
    add("--name", required=True, help=f"the model is saved to {OWN}/NAME")
    add("--search", default="http://127.0.0.1:8000", metavar="URL", help="gateway of sets without a URL")
    add("--mode", choices=("hybrid", "dense", "sparse"), default="hybrid", help="how to search (default: %(default)s)")
    add("--mined", type=Path, default=None, metavar="FILE", help="read what was mined from here, or keep it here")
    add("--model", default=MINILM, help="encoder or cross-encoder to begin with (default: %(default)s)")
    add("--questions", type=_positive, default=4000, help="most training questions of a set (default: %(default)s)")
    add("--validation-questions", type=_positive, default=200, help="most of a set (default: %(default)s)")
    add("--validation-share", type=float, default=0.2, help="of the documents, held out (default: %(default)s)")
    add("--hold-out-first", type=int, default=0, metavar="N", help="instead: what the first N questions are about")
    add("--candidates", type=_positive, default=50, help="passages a question is searched for (default: %(default)s)")
    add("--validation-candidates", type=_positive, default=50, help="of them reranked (default: %(default)s)")
    add("--prior", type=float, default=8.0, help="as PHAROS_RERANK_PRIOR, when validating (default: %(default)s)")
    add("--max-length", type=_positive, default=192, help="tokens of a pair, the model's window (default: %(default)s)")
    add("--epochs", type=float, default=recipe.epochs, help="default: %(default)s")
    add("--minutes", type=float, default=recipe.seconds / 60, help="of training at most (default: %(default)s)")
    add("--learning-rate", type=float, default=recipe.learning_rate, help="default: %(default)s")
    add("--negatives", type=_positive, default=recipe.negatives, help="of a question (default: %(default)s)")
    add("--batch", type=_positive, default=recipe.questions_per_step, help="questions a step (default: %(default)s)")
    add(
        "--forward",
        type=_positive,
        default=recipe.forward_questions,
        help="whose graphs are held at once (default: %(default)s)",
    )
    add("--train-embeddings", action="store_true", help="the word embeddings too")
    add("--dropout", action="store_true", help="as the model's configuration has it; for long trainings on a GPU")
    add("--frozen-layers", type=int, default=0, help="lowest layers that keep their weights (default: none)")
    add("--threads", type=int, default=0, help="of torch; 1 on a CPU that others use too (default: one per core)")
    add("--device", default=None, help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add("--seed", type=int, default=recipe.seed)
    return parser.parse_args(arguments)


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The part of the command line that says how to train."""
    return Recipe(
        epochs=options.epochs,
        seconds=options.minutes * 60,
        learning_rate=options.learning_rate,
        negatives=options.negatives,
        questions_per_step=options.batch,
        forward_questions=options.forward,
        train_embeddings=options.train_embeddings,
        frozen_layers=options.frozen_layers,
        dropout=options.dropout,
        seed=options.seed,
    )


def mining_options(options: argparse.Namespace) -> dict[str, object]:
    """The part of the command line that decides what is searched for, found and held out. Not the seed, so that one
    file serves trainings of several, and not --validation-questions, which bounds what is read too."""
    return {
        "--set": sorted(_names(options)),
        "--hold-out-first": options.hold_out_first,
        "--validation-share": options.validation_share,
        "--mode": options.mode,
        "--candidates": options.candidates,
        "--questions": options.questions,
    }


async def mine_all(options: argparse.Namespace) -> list[Mined]:
    """What the gateways find for a sample of each set's questions. Raises NoQuestions, DatasetError, NothingFound, and
    httpx.HTTPError where a gateway does not answer."""
    found: list[Mined] = []
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        folders = [options.data / name for name in _names(options)]
        sets = await asyncio.to_thread(split, folders, options.validation_share, options.hold_out_first)
        for given, questions in zip(options.sets, sets, strict=True):
            url = given.partition("=")[2]
            training, validation = questions.of("training"), questions.of("validation")
            rng = random.Random(options.seed)
            chosen: list[tuple[Part, Question]] = [
                *(("training", q) for q in rng.sample(training, min(len(training), options.questions))),
                *(
                    ("validation", q)
                    for q in rng.sample(validation, min(len(validation), options.validation_questions))
                ),
            ]
            log.info(
                "%s: %d judged questions, %d to train on and %d to validate on; %d of them are searched for",
                questions.name, len(questions.all), len(training), len(validation), len(chosen),
            )  # fmt: skip
            search = gateway_search(http, url or options.search, options.candidates, options.mode)
            found += await mine(questions, chosen, search)
    return found


def run(options: argparse.Namespace) -> Path:
    """Mine, train, validate and save; the model's folder. Raises what `mine_all` raises, NotAsMined, and ValueError."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    if options.mined is not None and options.mined.exists():
        mined = load(options.mined, mining_options(options))
    else:
        mined = asyncio.run(mine_all(options))
        if options.mined is not None:
            save(mined, mining_options(options), options.mined)
    given = examples(mined)
    if not given:
        raise NoQuestions("no training question has both a passage that answers it and one that does not")
    if options.threads:
        torch.set_num_threads(options.threads)
    disable_progress_bar()
    set_verbosity_error()  # that the head is new is no warning here
    model = CrossEncoder(options.model, num_labels=1, max_length=options.max_length, device=options.device)
    trained = train(model, given, recipe_of(options))
    log.info("%d steps over %d pairs in %.0f s", trained.steps, trained.pairs, trained.seconds)
    folder = OWN / str(options.name)
    model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
    asked = held_out(mined, options.validation_questions)
    orders = validate(model, asked, options.validation_candidates, options.prior)
    licences = {name: licence_of(options.data / name) for name in _names(options)}
    (folder / "README.md").write_text(readme(options, trained, orders, licences), encoding="utf-8")
    rows = [f"{each.set}\t{each.question.id}\n" for each in asked]
    (folder / "validation.tsv").write_text("".join(rows), encoding="utf-8")
    for order in orders:
        log.info(
            "%s: nDCG@10 of %d held-out questions %.3f as searched, %.3f reranked",
            order.set, order.questions, order.searched, order.reranked,
        )  # fmt: skip
        if order.reranked <= order.searched:
            log.warning("%s: the model makes the order no better; train it longer before it is used", order.set)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when the model is saved, 1 with one line of explanation when it cannot be."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        folder = run(options)
    except (NoQuestions, NotAsMined, NothingFound, DatasetError, httpx.HTTPError, OSError, ValueError) as exc:
        log.error("cannot train: %s", exc or repr(exc))
        return 1
    print(folder)
    return 0


def _names(options: argparse.Namespace) -> list[str]:
    return [given.partition("=")[0] for given in options.sets]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
