"""`python -m launch.welcome`: wait until everything is ready, load the sample corpus if nothing is loaded, say hello.

Stays until it is ended, since the process manager ends all when one does.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from app.settings import Settings

SAMPLE = Path("setup_milvus/sample/articles.csv")
QUESTION = "When will the comet found by Hendrik Uirab be nearest to us?"
READY_SECONDS = 900
"""A large model may take long to load."""


def wait_until_ready(url: str) -> None:
    """Poll /readyz, saying every ten seconds what is missing."""
    started = time.monotonic()
    said = 0.0
    while time.monotonic() - started < READY_SECONDS:
        missing = "the gateway"
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)
            if answer.status_code == 200:
                return
            missing = ", ".join(name for name, ok in answer.json()["checks"].items() if not ok)
        except httpx.TransportError:
            pass
        seconds = time.monotonic() - started
        if seconds - said >= 10:
            said = seconds
            print(f"{seconds:.0f} s: waiting for {missing} ...", flush=True)
        time.sleep(1)
    sys.exit(f"not ready after {READY_SECONDS} s; the lines above say why")


def main() -> None:
    settings = Settings()
    url = f"http://{settings.host}:{settings.port}"
    wait_until_ready(url)
    topics = httpx.get(f"{url}/topics", timeout=30, trust_env=False).raise_for_status().json()["topics"]
    if not topics:
        print("nothing is loaded yet: loading the sample corpus", flush=True)
        subprocess.run([sys.executable, "-m", "setup_milvus", "--dataset", str(SAMPLE)], check=True)
    body = json.dumps({"question": QUESTION, "stream": True})
    print(
        f"""
Pharos is ready.

  gateway        {url}        (API: {url}/docs)
  model service  {settings.model_url}
  Milvus         {settings.milvus_uri}

Ask something:

  curl -N {url}/ask -H 'content-type: application/json' -d '{body}'

Ctrl-C stops everything.""",
        flush=True,
    )
    signal.pause()


if __name__ == "__main__":
    main()
