"""`python -m launch.stack`: Milvus Lite, app_llm and app under one process manager (honcho), until Ctrl-C.

When one of them ends, for whatever reason, the others are ended too.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

from honcho.manager import Manager

from app.settings import Settings

MILVUS_FOLDER = Path("volumes/milvus-lite")
INTERRUPTED = 130


def commands(settings: Settings) -> dict[str, str]:
    """Name and command line of every process. Milvus Lite only where the settings point at this machine."""
    python = shlex.quote(sys.executable)
    processes: dict[str, str] = {}
    milvus = urlsplit(settings.milvus_uri)
    if milvus.hostname in ("127.0.0.1", "localhost"):
        # Through -m: a console script's #! line would break when the folder is moved.
        processes["milvus"] = (
            f"{python} -m milvus_lite server --host 127.0.0.1 --port {milvus.port or 19530} "
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
    for name, command in commands(Settings()).items():
        manager.add_process(name, f"exec {command}", env=environment)
    manager.loop()
    return 0 if manager.returncode == INTERRUPTED else int(manager.returncode or 0)


if __name__ == "__main__":
    sys.exit(main())
