"""Which series, labels and functions a PromQL expression names. Whether it is PromQL, Prometheus itself says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]*\])|(?P<number>\d[\d.eE+-]*\w*)"""
    r"""|(?P<name>[A-Za-z_:][\w:]*)|(?P<op>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},])|(?P<space>\s+)"""
)
LABEL_LISTS = ("by", "without", "on", "ignoring", "group_left", "group_right")
WORDS = (*LABEL_LISTS, "and", "or", "unless", "bool", "offset")


@dataclass
class Selector:
    """One `name{…}[…]`, the labels it matches on, and the function whose argument it is (empty: none)."""

    name: str
    within: str
    labels: list[str] = field(default_factory=list)
    ranged: bool = False


@dataclass
class Names:
    """What an expression names. `grouped` are the labels in by(…), on(…) and the like."""

    selectors: list[Selector]
    grouped: list[str]


def names(expr: str) -> Names:
    """Read `expr`. Raises ValueError for what no PromQL has in it."""
    tokens, at = [], 0
    while at < len(expr):
        found = TOKEN.match(expr, at)
        if found is None:
            raise ValueError(f"{expr!r} at {at}: {expr[at : at + 10]!r}")
        if found.lastgroup != "space":
            tokens.append((found.lastgroup, found[0]))
        at = found.end()
    selectors: list[Selector] = []
    grouped: list[str] = []
    calls: list[str] = []
    before = ""  # the word before an opening parenthesis
    braces = False
    tokens.append(("end", ""))
    for (kind, text), (_, following) in pairwise(tokens):
        if text == "(":
            # `sum by (le) (…)`: the second parenthesis is sum's.
            calls.append(before)
            before = ""
        elif text == ")":
            if not calls:
                raise ValueError(f"{expr!r}: a parenthesis too many")
            calls.pop()
        elif text in "{}" and text:
            if braces == (text == "{"):
                raise ValueError(f"{expr!r}: braces")
            braces = text == "{"
        elif kind == "range" and selectors:
            selectors[-1].ranged = True
        elif kind == "name":
            if braces:
                selectors[-1].labels.append(text)
            elif text in WORDS or following == "(" or following in LABEL_LISTS:
                before = text
            elif calls and calls[-1] in LABEL_LISTS:
                grouped.append(text)
            else:
                selectors.append(Selector(text, calls[-1] if calls else ""))
    if calls or braces:
        raise ValueError(f"{expr!r}: not closed")
    return Names(selectors, grouped)
