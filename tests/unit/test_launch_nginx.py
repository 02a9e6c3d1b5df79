"""Where the tests' nginx comes from. Programs on PATH stand in for the machine's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launch.nginx import NginxMissing, ensure, find

NOWHERE = "/nowhere"
"""Instead of the folders where this machine may have nginx."""
WORKS = f"#!{sys.executable}\n"
FAILS = f"#!{sys.executable}\nraise SystemExit(1)\n"
UNPACKS = f"""#!{sys.executable}
import sys
from pathlib import Path
package, folder = Path(sys.argv[2]), Path(sys.argv[3])
program = folder / "usr" / "sbin" / "nginx"
if package.name.startswith(package.read_text()):
    program.parent.mkdir(parents=True)
    program.write_text({WORKS!r})
    program.chmod(0o755)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return tmp_path / "venv"


def put(machine: Path, name: str, text: str) -> Path:
    program = machine / name
    program.write_text(text)
    program.chmod(0o755)
    return program


def put_apt(machine: Path, program_in: str, lists: bool) -> Path:
    """A Debian whose package `program_in` has nginx; without package lists it has nothing before `apt-get update`.
    Returns a log of the commands."""
    log = machine / "log"
    put(
        machine,
        "apt-get",
        f"""#!{sys.executable}
import sys
from pathlib import Path
log, updated = Path({str(log)!r}), Path({str(machine / "updated")!r})
with log.open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "update":
    updated.touch()
elif {lists} or updated.exists():
    Path(sys.argv[2] + "_1_amd64.deb").write_text({program_in + "_"!r})
""",
    )
    put(machine, "dpkg-deb", UNPACKS)
    return log


def test_the_machines_own_is_taken(machine: Path, venv: Path) -> None:
    log = put_apt(machine, "nginx", lists=True)
    own = put(machine, "nginx", WORKS)
    assert ensure(venv, NOWHERE) == own
    assert not log.exists()


@pytest.mark.parametrize("package", ["nginx", "nginx-core"])
def test_debians_package_is_unpacked_once(machine: Path, venv: Path, package: str) -> None:
    log = put_apt(machine, package, lists=True)
    unpacked = ensure(venv, NOWHERE)
    assert unpacked.is_relative_to(venv)
    assert find(venv, NOWHERE) == unpacked
    said = log.read_text()
    assert said.splitlines()[-1] == f"download {package}"
    assert ensure(venv, NOWHERE) == unpacked
    assert log.read_text() == said


def test_package_lists_are_fetched_where_there_are_none(machine: Path, venv: Path) -> None:
    log = put_apt(machine, "nginx", lists=False)
    assert ensure(venv, NOWHERE).is_relative_to(venv)
    assert log.read_text().splitlines() == ["download nginx", "update", "download nginx"]


def test_without_apt_it_says_what_to_install(machine: Path, venv: Path) -> None:  # noqa: ARG001
    with pytest.raises(NginxMissing, match="install it"):
        ensure(venv, NOWHERE)


def test_a_package_that_is_not_there_is_said(machine: Path, venv: Path) -> None:
    put(machine, "apt-get", FAILS)
    put(machine, "dpkg-deb", FAILS)
    with pytest.raises(NginxMissing, match="install it"):
        ensure(venv, NOWHERE)


def test_one_that_does_not_run_is_none(machine: Path, venv: Path) -> None:
    put(machine, "nginx", FAILS)
    with pytest.raises(NginxMissing, match="install it"):
        ensure(venv, NOWHERE)
