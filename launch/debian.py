"""Programs that PyPI does not have: the machine's own, or else the distribution's package unpacked into `.venv`.

Unpacked and not installed: an installation needs root, and Debian starts what it installs. Needs only the standard
library, since launch.install uses it. `python3 -m launch.debian promtool …` runs one of them, for the Makefile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

VENV = Path(".venv")
FOLDER = "debian"
"""In the environment; all packages are unpacked into this one folder, as on a machine of their own."""
ROOTS_PATH = "/usr/local/sbin:/usr/sbin"
"""Where distributions install servers, which only root's PATH may name."""


class Program(NamedTuple):
    """A program under each name that it has somewhere, the packages of which one has it, and how it says its version.
    `beside` are packages that it runs without: those of its web pages."""

    names: tuple[str, ...]
    packages: tuple[str, ...]
    version: str = "--version"
    beside: tuple[str, ...] = ()
    least: str = ""


NGINX = Program(("nginx",), ("nginx", "nginx-core"), "-v", least="1.19.5")
"""Debian and later Ubuntus have the program in the first package, Ubuntu up to 22.04 in the second."""
_PAGES = (
    "bootstrap4", "d3", "eonasdan-bootstrap-datetimepicker", "jquery", "jquery-hotkeys", "moment", "moment-timezone",
    "mustache", "popper.js", "rickshaw",
)  # fmt: skip
PROMETHEUS = Program(("prometheus",), ("prometheus",), beside=tuple(f"libjs-{name}" for name in _PAGES), least="2.42")
PROMTOOL = Program(("promtool",), ("prometheus",))
NODE_EXPORTER = Program(("prometheus-node-exporter", "node_exporter"), ("prometheus-node-exporter",))
ALERTMANAGER = Program(("prometheus-alertmanager", "alertmanager"), ("prometheus-alertmanager",), least="0.25")
AMTOOL = Program(("amtool",), ("prometheus-alertmanager",))
MONITORING = (PROMETHEUS, PROMTOOL, NODE_EXPORTER, ALERTMANAGER, AMTOOL)
PROGRAMS = (NGINX, *MONITORING)


class ProgramMissing(Exception):
    """A program is not there and cannot be had without help. The message says what to do."""


def missing(program: Program) -> str:
    """What to do about a program that is not there."""
    name = " or ".join(program.names)
    least = f" {program.least} or later" if program.least else ""
    return (
        f"{name}{least} is needed and not on this machine: install it (Debian: apt install {program.packages[0]}; "
        "elsewhere the distribution's package, or its makers' download put on PATH), then run this again."
    )


def find(venv: Path, program: Program, also: str = ROOTS_PATH) -> Path | None:
    """The program on PATH or on `also`, else the one in `venv`, else None."""
    usr = venv / FOLDER / "usr"
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), also, str(usr / "sbin"), str(usr / "bin")])
    for name in program.names:
        found = shutil.which(name, path=path)
        if found is not None:
            return Path(found).absolute()
    return None


def ensure(venv: Path, program: Program, also: str = ROOTS_PATH) -> Path:
    """`find`, after unpacking the distribution's package into `venv` where that is needed. Raises ProgramMissing."""
    for package in program.packages:
        if find(venv, program, also) is None and unpack(package, venv / FOLDER):
            for other in program.beside:
                unpack(other, venv / FOLDER)
    found = find(venv, program, also)
    # An unpacked program may lack a library that an installation would have brought.
    if found is None or subprocess.run([found, program.version], check=False, capture_output=True).returncode != 0:
        raise ProgramMissing(missing(program))
    return found


def unpack(package: str, folder: Path) -> bool:
    """Unpack a package, which apt checks, into `folder`. False where there is no apt or no such package."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        download = ["apt-get", "download", package]
        # A fresh machine has no package lists, an old one has stale ones; only root can fetch them.
        for command in (download, ["apt-get", "update"], download):
            subprocess.run(command, cwd=downloads, check=False, capture_output=True)
            for file in Path(downloads).glob("*.deb"):
                print(f"unpacking {file.name} into {folder} ...", flush=True)
                return subprocess.run(["dpkg-deb", "-x", file, folder], check=False).returncode == 0
    return False


def assets(program: Path, venv: Path, folder: str) -> Path | None:
    """Where Debian's build of an unpacked `program` has what it would look for in /`folder`; None for any other."""
    root = (venv / FOLDER).absolute()
    return root / folder if program.absolute().is_relative_to(root) else None


def main(words: list[str]) -> int:
    """Run a program with the rest of the words; its exit status."""
    program = next((each for each in PROGRAMS if words[:1] and words[0] in each.names), None)
    if program is None:
        print(f"usage: python3 -m launch.debian PROGRAM …, of {', '.join(p.names[0] for p in PROGRAMS)}")
        return 2
    try:
        return subprocess.run([ensure(VENV, program), *words[1:]], check=False).returncode
    except ProgramMissing as exc:
        print(f"pharos: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
