"""Server-sent events as they arrive (WHATWG HTML, section 9.2.6), however the stream is cut into pieces."""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event. Its name is "message" where the stream gives none; several lines of data are joined by newlines."""

    name: str
    data: str


class Parser:
    """Feed it the bytes of one stream in order; it gives each event with the piece that ends it.

    Comments and unknown fields are left out. So is an event that the stream does not end with a blank line: half an
    event is none. `id` and `retry`, which are for reconnecting, are left out as well.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._at_start = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are complete now. Bytes that are not UTF-8 become U+FFFD, as the standard has it."""
        if self._after_cr and piece:
            # CR LF is one end of line; the CR has ended it already.
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        self._rest += piece
        if self._at_start:
            if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
                return []
            self._rest = self._rest.removeprefix(_BOM)
            self._at_start = False
        if b"\n" not in piece and b"\r" not in piece:
            return []
        self._after_cr = self._rest.endswith(b"\r")
        *lines, self._rest = self._rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None

    def _dispatch(self) -> Event | None:
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return Event(name, "\n".join(data)) if data else None
