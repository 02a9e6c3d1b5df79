"""A cross-encoder small enough to be made in a test."""

from __future__ import annotations

import json
import string
from pathlib import Path

WINDOW = 32
"""Tokens of a pair."""


def tiny_cross_encoder(folder: Path, *, labels: int = 1, window: int = WINDOW, seed: int = 0) -> Path:
    """A BERT of two layers with random weights that reads letters, saved to `folder` as CrossEncoder saves one."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    source = folder.with_name(f"{folder.name}-source")
    source.mkdir(parents=True)
    letters = [*string.ascii_lowercase, *string.digits, "?", ".", ","]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    (source / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        num_labels=labels,
        initializer_range=0.5,  # far enough apart for scores to differ
    )
    BertForSequenceClassification(config).save_pretrained(source)
    BertTokenizerFast(str(source / "vocab.txt"), model_max_length=window).save_pretrained(source)
    saved = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**saved, "model_max_length": window}))
    CrossEncoder(str(source), device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder
