"""Requests to POST /v1/chat/completions."""

from __future__ import annotations

import json

MODEL = "simulated"
"""What app_llm's simulated engine and the simulated upstream are both called."""
BODIES = 512


def chat_bodies(max_tokens: int, *, stream: bool) -> list[str]:
    """Distinct requests that ask for `max_tokens`."""
    return [
        json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"Question {i}: what is new in the documents?"}],
                "max_tokens": max_tokens,
                "stream": stream,
            }
        )
        for i in range(BODIES)
    ]
