"""`python -m launch.stack`: Milvus Lite, app_llm and app under one process manager (honcho), until Ctrl-C.

When one of them ends, for whatever reason, the others are ended too.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from honcho.manager import Manager

from launch.preflight import environment_with_dotenv, milvus_lite_port

MILVUS_FOLDER = Path("volumes/milvus-lite")
INTERRUPTED = 130


def commands(environment: dict[str, str]) -> dict[str, str]:
    """Name and command line of every process. Milvus Lite only where no other Milvus is named."""
    python = shlex.quote(sys.executable)
    processes: dict[str, str] = {}
    milvus = milvus_lite_port(environment)
    if milvus is not None:
        # Through -m: a console script's #! line would break when the folder is moved.
        processes["milvus"] = (
            f"{python} -m milvus_lite server --host 127.0.0.1 --port {milvus} "
            f"--data-dir {shlex.quote(str(MILVUS_FOLDER))}"
        )
    processes["app_llm"] = f"{python} -m app_llm"
    processes["app"] = f"{python} -m app"
    processes["welcome"] = f"{python} -m launch.welcome"
    return processes


def main() -> int:
    MILVUS_FOLDER.parent.mkdir(parents=True, exist_ok=True)
    manager = Manager()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for name, command in commands(environment_with_dotenv(Path.cwd())).items():
        manager.add_process(name, f"exec {command}", env=environment)
    manager.loop()
    return 0 if manager.returncode == INTERRUPTED else int(manager.returncode or 0)


if __name__ == "__main__":
    sys.exit(main())
