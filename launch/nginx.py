"""nginx for the tests: the machine's own, or else Debian's package unpacked into `.venv`.

Unpacked and not installed: an installation needs root and starts a web server on this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGES = ("nginx", "nginx-core")
"""Where distributions have the program: Debian and later Ubuntus in the first, Ubuntu up to 22.04 in the second."""
ROOTS_PATH = "/usr/local/sbin:/usr/sbin"
"""Where distributions install it, which only root's PATH may name."""
MISSING = "the tests need nginx 1.19.5 or later: install it (Debian: apt install nginx), then run this again."


class NginxMissing(Exception):
    """There is no nginx, and it cannot be had without help. The message says what to do."""


def find(venv: Path, also: str = ROOTS_PATH) -> Path | None:
    """The nginx on PATH or on `also`, else the one in `venv`, else None."""
    unpacked = venv / "nginx" / "usr" / "sbin"
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), also, str(unpacked)]))
    return None if found is None else Path(found)


def ensure(venv: Path, also: str = ROOTS_PATH) -> Path:
    """`find`, after unpacking the distribution's package into `venv` where that is needed. Raises NginxMissing."""
    for package in PACKAGES:
        if find(venv, also) is None:
            unpack(package, venv / "nginx")
    found = find(venv, also)
    # An unpacked program may lack a library that an installation would have brought.
    if found is None or subprocess.run([found, "-v"], check=False, capture_output=True).returncode != 0:
        raise NginxMissing(MISSING)
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
