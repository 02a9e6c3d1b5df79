"""What Pharos is compared with: each peer has a list of what it needs (`*.in`), its lock, and an environment of its
own, made when first asked for."""

from __future__ import annotations

from pathlib import Path

from launch.install import install

ENVIRONMENTS = Path("volumes/bench/venvs")
LOCKS = Path(__file__).parent
PEERS = ("infinity", "litellm", "vllm-router")


def environment_of(peer: str) -> Path:
    """The peer's environment, installed if it is not. Raises CalledProcessError when pip fails."""
    assert peer in PEERS
    venv = ENVIRONMENTS / peer
    venv.parent.mkdir(parents=True, exist_ok=True)
    install([peer], venv, LOCKS)
    return venv
