"""Training a cross-encoder on groups of one answering passage and some that do not answer.

The loss is that of localised contrastive estimation (Gao, Dai and Callan, "Rethink Training of BERT Rerankers in
Multi-Stage Retrieval Pipeline", ECIR 2021): softmax cross-entropy of the answering passage within its group. It says
nothing of the logits' level; binary cross-entropy is added, so that the sigmoid of a logit means something.

sentence-transformers' own trainer wants the package `datasets`, a thousand lines of configuration away from these few.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.mining import Candidate, Mined

log = logging.getLogger(__name__)

WARM_UP = 0.1
"""Share of the training in which the learning rate rises; afterwards it falls to zero, both linearly."""
RANK_OFFSET = 5
"""A candidate of rank r (from 0) is drawn as a negative with a probability in proportion to 1 / (r + this)."""
LOG_SECONDS = 20.0
FORWARD_PAIRS = 16
"""Pairs of one forward pass on a CPU."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `seconds` ends it early, and the learning rate is planned for it. The lowest `frozen_layers` keep
    their weights, which saves two thirds of their work. Without `dropout` a step takes half as long on a CPU, where
    attention with it has no fast kernel; an epoch or two over thousands of questions do not overfit. `bfloat16` is what
    forward passes compute in (weights and loss stay float32); None: where the hardware does."""

    epochs: float = 2.0
    seconds: float = 3600.0
    learning_rate: float = 1.2e-4
    negatives: int = 3
    questions_per_step: int = 8
    forward_questions: int = 8
    train_embeddings: bool = False
    frozen_layers: int = 0
    dropout: bool = False
    bfloat16: bool | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """What was done: on how many different questions, and with which mean loss over the last tenth of the steps."""

    questions: int
    steps: int
    pairs: int
    seconds: float
    loss: float


@dataclass(frozen=True, slots=True)
class Example:
    """`negatives` are best first."""

    question: str
    positive: str
    negatives: tuple[str, ...]


def examples(mined: Sequence[Mined]) -> list[Example]:
    """Those of the training part for which the search found a document that answers and others that do not. What is
    held out for validation is no negative either."""
    found = []
    for each in mined:
        relevant = each.question.relevant
        positives = [c.text for c in each.candidates if c.document in relevant]
        negatives = [c.text for c in each.candidates if _is_negative(c, each)]
        if each.part == "training" and positives and negatives:
            found.append(Example(each.question.text, positives[0], tuple(negatives)))
    return found


def train(model: Any, given: Sequence[Example], recipe: Recipe) -> Trained:
    """Train `model`, a CrossEncoder of one label, in place, on the device it is on. Raises ValueError for layers to
    freeze in a model that is not built like BERT."""
    import torch

    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    _freeze(model.model, recipe)
    if not recipe.dropout:
        _without_dropout(model)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=recipe.learning_rate
    )
    steps_planned = max(1, round(len(given) * recipe.epochs / recipe.questions_per_step))
    batches = _batches(given, recipe, rng)
    losses: list[float] = []
    pairs = 0
    started = said = time.monotonic()
    model.train()
    device = model.device.type
    bfloat16 = _computes_in_bfloat16(device) if recipe.bfloat16 is None else recipe.bfloat16
    for step in range(steps_planned):
        now = time.monotonic()
        progress = max(step / steps_planned, (now - started) / recipe.seconds)
        if progress >= 1:
            break
        for parameters in optimizer.param_groups:
            parameters["lr"] = recipe.learning_rate * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP), 1.0)
        groups = next(batches)
        loss = 0.0
        for start in range(0, len(groups), recipe.forward_questions):
            part = groups[start : start + recipe.forward_questions]
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
                part_loss = _loss(model, part) * len(part) / len(groups)
            part_loss.backward()
            loss += float(part_loss.detach())
            pairs += sum(len(group) for group in part)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
        if now - said > LOG_SECONDS:
            said = now
            log.info("%3.0f %%, step %d, loss %.3f", 100 * progress, step, float(np.mean(losses[-20:])))
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    questions = min(len(given), len(losses) * recipe.questions_per_step)
    return Trained(questions, len(losses), pairs, time.monotonic() - started, float(np.mean(last)))


def _computes_in_bfloat16(device: str) -> bool:
    """Whether the hardware does, rather than converting: on a CPU that does, a step takes half as long."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _freeze(network: Any, recipe: Recipe) -> None:
    if not recipe.train_embeddings:
        # Two thirds of a small model, whose every row the optimizer would visit in each step for little gain.
        network.get_input_embeddings().weight.requires_grad_(False)
    if recipe.frozen_layers:
        layers = getattr(getattr(network.base_model, "encoder", None), "layer", None)
        if layers is None or recipe.frozen_layers > len(layers):
            raise ValueError(f"cannot freeze {recipe.frozen_layers} layers of {type(network).__name__}")
        network.base_model.embeddings.requires_grad_(False)
        layers[: recipe.frozen_layers].requires_grad_(False)


def _without_dropout(model: Any) -> None:
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _logits(model: Any, pairs: Sequence[list[str]]) -> Any:
    """One per pair. On a CPU pairs of like length share a forward pass, so that it pads little."""
    import torch

    size = FORWARD_PAIRS if model.device.type == "cpu" else len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    parts = []
    for start in range(0, len(order), size):
        features = model.preprocess([pairs[i] for i in order[start : start + size]])
        features = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in features.items()}
        parts.append(model(features)["scores"].float().reshape(-1))
    place = torch.empty(len(order), dtype=torch.long)
    place[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[place.to(parts[0].device)]


def _loss(model: Any, groups: Sequence[list[list[str]]]) -> Any:
    import torch
    from torch.nn import functional

    logits = _logits(model, [pair for group in groups for pair in group])
    losses = []
    for scores in torch.split(logits, [len(group) for group in groups]):
        wanted = torch.zeros_like(scores)
        wanted[0] = 1
        # The answering passage weighs as much as all the others of its group together.
        weight = torch.full_like(scores, 0.5 / max(1, len(scores) - 1))
        weight[0] = 0.5
        losses.append(
            functional.cross_entropy(scores[None], torch.zeros(1, dtype=torch.long, device=scores.device))
            + functional.binary_cross_entropy_with_logits(scores, wanted, weight, reduction="sum")
        )
    return torch.stack(losses).mean()


def _batches(given: Sequence[Example], recipe: Recipe, rng: np.random.Generator) -> Iterator[list[list[list[str]]]]:
    """Groups of pairs, the answering one first: without end, each epoch in another order and with other negatives."""
    size = min(recipe.questions_per_step, len(given))
    while True:
        order = rng.permutation(len(given))
        for start in range(0, len(order) - size + 1, size):
            yield [_group(given[i], recipe.negatives, rng) for i in order[start : start + size]]


def _group(example: Example, negatives: int, rng: np.random.Generator) -> list[list[str]]:
    weights = 1 / (np.arange(len(example.negatives)) + RANK_OFFSET)
    count = min(negatives, len(weights))
    drawn = rng.choice(len(weights), count, replace=False, p=weights / weights.sum())
    return [[example.question, text] for text in (example.positive, *(example.negatives[i] for i in drawn))]


def _is_negative(candidate: Candidate, mined: Mined) -> bool:
    return candidate.document not in mined.question.relevant and candidate.document not in mined.held_out
