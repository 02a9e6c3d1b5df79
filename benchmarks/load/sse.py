"""Reading a recorded stream of server-sent events: OpenAI's chunks, or the named events of POST /ask."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import msgspec


class _Text(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Text = _Text()


class _Usage(msgspec.Struct, frozen=True):
    completion_tokens: int = 0


class _Event(msgspec.Struct, frozen=True):
    """Either kind: OpenAI's has `choices`, that of /ask `text`; both may have `usage`."""

    choices: list[_Choice] = []
    text: str = ""
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Event).decode


class Reading(msgspec.Struct, frozen=True):
    """`token_times` are the arrivals of the chunks with text; `ended` says whether the stream came to its end."""

    tokens: int
    text: str
    token_times: list[float]
    ended: bool


def read(parts: Sequence[bytes], times: Sequence[float]) -> Reading:
    """A stream from the pieces it came in and when each came. An event belongs to the piece with its last byte.

    Read only after the measurement, so that parsing costs it nothing.
    """
    stream = b"".join(parts)
    ends = list(accumulate(map(len, parts)))
    separator = b"\r\n\r\n" if b"\r\n\r\n" in stream else b"\n\n"
    texts: list[str] = []
    token_times: list[float] = []
    usage: _Usage | None = None
    ended = False
    piece = position = 0
    while (end := stream.find(separator, position)) >= 0:
        name, data = _fields(stream[position:end])
        position = end + len(separator)
        while ends[piece] < position:
            piece += 1
        if name == b"done" or data == b"[DONE]":
            ended = True
        if not data or data == b"[DONE]" or name in (b"sources", b"meta", b"error"):
            continue
        event = _decode(data)
        usage = event.usage or usage
        text = event.text or "".join(choice.delta.content or "" for choice in event.choices)
        if text:
            texts.append(text)
            token_times.append(times[piece])
    whole = "".join(texts)
    tokens = usage.completion_tokens if usage is not None else len(whole.split())
    return Reading(tokens, whole, token_times, ended)


def _fields(block: bytes) -> tuple[bytes, bytes]:
    """Name and data of one event; comments are left out."""
    name = b""
    data: list[bytes] = []
    for line in block.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif line.startswith(b"event:"):
            name = line[6:].strip()
    return name, b"\n".join(data)
