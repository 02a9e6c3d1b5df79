"""What can be switched on for a question, and how: one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import reduce
from typing import Any, Final, Literal

from evaluation.gateway import Headers

NOTHING = "nothing"
"""The control: asked exactly as without a switch, so what it "gains" is how noisy the measurement is."""


HEADER = "Header: "


class _LeftOut(Enum):
    LEFT_OUT = "left out"


LEFT_OUT: Final = _LeftOut.LEFT_OUT
"""No word about it: None is one, a null that turns off what the gateway is configured to do."""


class SwitchError(Exception):
    """There is no such switch, or it cannot be had here; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a question is asked: further fields of the request's body, and its headers (evaluation/gateway.py)."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    headers: Headers = field(default_factory=dict)

    def __or__(self, other: Way) -> Way:
        """Both in one; the other wins, and objects in both become one object."""
        return Way(merged(self.fields, other.fields), {**self.headers, **other.headers})


@dataclass(frozen=True, slots=True)
class Switch:
    """`path` is the request's field (a dot goes into an object), or header (with `Header: ` before it), that gets the
    value `on`, and `off` where it is not switched on, whatever the gateway is configured to do. `settings` are those of
    the gateway, PHAROS_* in lower case, without which it does nothing.

    `changes` says what can be seen of it: the ranking of documents, or what the model reads of them. `asks_model` is
    for those that need answers of a real generator, `needs` what must be there beside.
    """

    path: str
    on: Any
    off: Any
    changes: Literal["ranking", "reading"] = "ranking"
    asks_model: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    needs: str = ""

    def way(self, value: Any) -> Way:
        """A request in which it has this value."""
        if value is LEFT_OUT:
            return Way()
        if self.path.startswith(HEADER):
            return Way(headers={self.path.removeprefix(HEADER): None if value is None else str(value)})
        for name in reversed(self.path.split(".")):
            value = {name: value}
        return Way(value)


SWITCHES: dict[str, Switch] = {
    NOTHING: Switch("", LEFT_OUT, LEFT_OUT),
    "min_score": Switch("ranking.min_score", 0.35, off=None),
    "half_life": Switch("ranking.half_life_days", 365, off=None),
    "duplicates": Switch("ranking.duplicates_above", 0.8, off=None),
    "mmr": Switch("ranking.mmr_lambda", 0.7, off=None),
    "self_query": Switch("self_query", True, off=False),
    "rerank": Switch("rerank", True, off=False, needs="a model service with a reranker (PHAROS_LLM_RERANKER_MODEL)"),
    "mode": Switch("mode", "dense", off=LEFT_OUT),
    "multi_query": Switch("expand", "multi_query", off="off", asks_model=True),
    "hyde": Switch("expand", "hyde", off="off", asks_model=True),
    "join": Switch("ranking.join_neighbours", True, off=False, changes="reading"),
    "parents": Switch("ranking.parent_tokens", 400, off=0, changes="reading"),
    "order": Switch("ranking.prompt_order", "ends", off="best_last", changes="reading"),
    "cache": Switch(
        f"{HEADER}Cache-Control",
        None,
        off="no-store",
        changes="reading",
        settings={"cache_vectors": 10_000, "cache_answers": 2_000, "cache_settle_seconds": 0},
    ),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A switch as it is measured; `label` is its name, with the value where that is not the table's."""

    label: str
    switch: Switch

    def on(self) -> Way:
        """A request with it on, and all others off."""
        return all_off() | self.switch.way(self.switch.on)


def chosen(text: str) -> Chosen:
    """`NAME`, or `NAME=VALUE` with another value than the table's (JSON, or a word). Raises SwitchError."""
    name, given, value = text.partition("=")
    if name not in SWITCHES or (given and name == NOTHING):
        raise SwitchError(f"no switch {text!r}; there are {', '.join(SWITCHES)}")
    switch = SWITCHES[name]
    if not given:
        return Chosen(name, switch)
    try:
        return Chosen(text, replace(switch, on=json.loads(value)))
    except json.JSONDecodeError:
        return Chosen(text, replace(switch, on=value))


def by_default() -> list[str]:
    """Those that need nothing but documents."""
    return [name for name, switch in SWITCHES.items() if not (switch.asks_model or switch.settings or switch.needs)]


def all_off() -> Way:
    """A request with every switch off, also those that nobody chose: the gateway may be configured to do it."""
    return reduce(Way.__or__, (switch.way(switch.off) for switch in SWITCHES.values()))


def settings_of(switches: Sequence[Chosen]) -> dict[str, object]:
    """What the gateway must be started with so that all of them can be switched on."""
    return {name: value for one in switches for name, value in one.switch.settings.items()}


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both bodies in one, as `Way` has it."""
    out = dict(first)
    for name, value in second.items():
        known = out.get(name)
        out[name] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return out
