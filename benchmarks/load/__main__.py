"""`python -m benchmarks.load`: a Load as JSON on standard input, its Outcome as JSON on standard output."""

from __future__ import annotations

import contextlib
import os
import sys

import msgspec
import uvloop

from benchmarks.load.generator import Generator
from benchmarks.load.types import Load


def main() -> None:
    # It stands for other machines, so the servers' work must not delay it. Only root may do this; see `doubts`.
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(Generator(load).run())))


if __name__ == "__main__":
    main()
