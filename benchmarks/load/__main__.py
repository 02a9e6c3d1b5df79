"""`python -m benchmarks.load`: a Load as JSON on standard input, its Outcome as JSON on standard output."""

from __future__ import annotations

import sys

import msgspec
import uvloop

from benchmarks.load.generator import Generator
from benchmarks.load.types import Load


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(Generator(load).run())))


if __name__ == "__main__":
    main()
