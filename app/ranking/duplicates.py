"""Near-duplicate removal: of passages that say the same in the same words only the best is kept."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from contracts.types import Hit

SHINGLE_WORDS = 5
"""Words a shingle: long enough that two texts on one subject share few, short enough that one changed word spoils only
five. Broder et al., "Syntactic clustering of the web" (WWW 1997), used ten on whole pages; passages are shorter."""

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""A word, or one character of a script without spaces (Chinese, Japanese)."""

Shingle = tuple[str, ...]


def without_duplicates(hits: Sequence[Hit], resemblance: float, limit: int | None = None) -> list[Hit]:
    """`hits` less those that resemble a better one by `resemblance` or more; the first `limit` of them.

    Resemblance is the share of shingles that two passages have in common (Broder's, the Jaccard index). It is counted
    exactly: MinHash estimates it where pairs are too many to count, and here an index of the shingles that were kept
    leaves few. By words and not by vectors: two reports of the same match are near each other as vectors and still say
    different things, and no vectors need to travel. A passage without words is like no other.
    """
    kept: list[Hit] = []
    sizes: list[int] = []
    holders: dict[Shingle, list[int]] = defaultdict(list)
    for hit in hits:
        if limit is not None and len(kept) >= limit:
            break
        own = shingles(hit.passage.text)
        shared = Counter(index for shingle in own if shingle in holders for index in holders[shingle])
        if any(n >= resemblance * (len(own) + sizes[index] - n) for index, n in shared.items()):
            continue
        for shingle in own:
            holders[shingle].append(len(kept))
        sizes.append(len(own))
        kept.append(hit)
    return kept


def shingles(text: str) -> set[Shingle]:
    """Every run of SHINGLE_WORDS words in `text`, lower-cased; all of a shorter text."""
    words = _WORD.findall(text.lower())
    if len(words) <= SHINGLE_WORDS:
        return {tuple(words)} if words else set()
    return set(zip(*(words[i:] for i in range(SHINGLE_WORDS)), strict=False))
