"""`python -m app_llm.export KIND MODEL BACKEND`: export a model for a backend, beside its folder; once.

The model service does it at its start where the folder can be written. This is for where it cannot.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from app_llm.graphs.making import make
from app_llm.graphs.packages import require
from app_llm.graphs.types import Backend, GraphError, Kind


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app_llm.export", description="Export a model for a backend.")
    parser.add_argument("kind", choices=get_args(Kind), help="which it is")
    parser.add_argument("model", type=Path, help="its folder")
    parser.add_argument("backend", choices=[name for name in get_args(Backend) if name != "torch"])
    given = parser.parse_args()
    try:
        if not given.model.is_dir():
            raise GraphError(f"There is no folder {given.model}.")
        require(given.backend, to_export=True)
        print(make(given.kind, given.model, given.backend))
    except GraphError as exc:
        sys.exit(f"pharos: {exc}")


if __name__ == "__main__":
    main()
