"""Texts, or pairs of texts, as a model's tokenizer reads them: how long they are, and cut to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app_llm.errors import NoTokenizer
from contracts.types import Pair


class WindowedTokenizer:
    """A tokenizer.json and the most tokens that its model takes. Not for two threads at once."""

    def __init__(self, tokenizer_json: str, window: int) -> None:
        from tokenizers import Tokenizer

        self.window = window
        # One that does not cut, to see by how much a text is too long.
        self._whole = Tokenizer.from_str(tokenizer_json)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._cutting = Tokenizer.from_str(tokenizer_json)
        self._cutting.no_padding()
        # "longest_first" is what sentence-transformers cuts pairs by, too.
        self._cutting.enable_truncation(window, strategy="longest_first")

    @classmethod
    def of(cls, model: Any) -> WindowedTokenizer:
        """That of a SentenceTransformer or CrossEncoder. Raises NoTokenizer where it has no fast form."""
        backend = getattr(model.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise NoTokenizer("This model's tokenizer has no fast (tokenizer.json) form.")
        return cls(backend.to_str(), int(model.max_seq_length))

    def json(self) -> str:
        """In Hugging Face's tokenizer.json format, without truncation or padding."""
        return str(self._whole.to_str())

    def lengths(self, texts: Sequence[str] | Sequence[Pair]) -> tuple[int, ...]:
        """How many tokens each has, before it is cut."""
        return tuple(len(one.ids) for one in self.whole(texts))

    def whole(self, texts: Sequence[str] | Sequence[Pair]) -> list[Any]:
        """The tokens of each text (`tokenizers.Encoding`), however many."""
        return list(self._whole.encode_batch_fast(texts))

    def cut(self, texts: Sequence[str] | Sequence[Pair], whole: Sequence[Any]) -> list[Any]:
        """`whole`, with those of more tokens than the window cut as the model reads them."""
        too_long = self.truncated(tuple(len(one.ids) for one in whole))
        cut = list(whole)
        # What a pair's cut leaves depends on both its parts, so the few that are too long are read again.
        for i, one in zip(too_long, self._cutting.encode_batch_fast([texts[i] for i in too_long]), strict=True):
            cut[i] = one
        return cut

    def truncated(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Which of the texts with these many tokens are longer than the window."""
        return tuple(i for i, length in enumerate(lengths) if length > self.window)
