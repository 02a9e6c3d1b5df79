"""Where programs that are no Python packages come from. Programs on PATH stand in for the machine's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launch import debian
from launch.debian import ALERTMANAGER, AMTOOL, NGINX, NODE_EXPORTER, PROMETHEUS, PROMTOOL, Program, ProgramMissing

NOWHERE = "/nowhere"
"""Instead of the folders where this machine may have its own."""
WORKS = f"#!{sys.executable}\n"
FAILS = f"#!{sys.executable}\nraise SystemExit(1)\n"
UNPACKS = f"""#!{sys.executable}
import sys
from pathlib import Path
package, folder = Path(sys.argv[2]), Path(sys.argv[3])
for program in package.read_text().split():
    program = folder / "usr" / program
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text({WORKS!r})
    program.chmod(0o755)
"""
HOLDS = {
    "nginx": "sbin/nginx",
    "prometheus": "bin/prometheus bin/promtool",
    "prometheus-node-exporter": "bin/prometheus-node-exporter",
    "prometheus-alertmanager": "bin/prometheus-alertmanager bin/amtool",
}
"""Debian's packages and their programs."""


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


def put_apt(machine: Path, holds: dict[str, str], lists: bool = True) -> Path:
    """A Debian with these packages (others are empty); without package lists it has nothing before `apt-get update`.
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
    Path(sys.argv[2] + "_1_amd64.deb").write_text({holds!r}.get(sys.argv[2], ""))
""",
    )
    put(machine, "dpkg-deb", UNPACKS)
    return log


@pytest.mark.parametrize("program", debian.PROGRAMS, ids=lambda program: program.names[0])
def test_the_machines_own_is_taken(machine: Path, venv: Path, program: Program) -> None:
    log = put_apt(machine, HOLDS)
    own = put(machine, program.names[-1], WORKS)
    assert debian.ensure(venv, program, NOWHERE) == own
    assert not log.exists()


@pytest.mark.parametrize("program", debian.PROGRAMS, ids=lambda program: program.names[0])
def test_debians_package_is_unpacked_once(machine: Path, venv: Path, program: Program) -> None:
    log = put_apt(machine, HOLDS)
    unpacked = debian.ensure(venv, program, NOWHERE)
    assert unpacked.is_relative_to(venv)
    assert debian.find(venv, program, NOWHERE) == unpacked
    said = log.read_text()
    assert said.splitlines() == [f"download {package}" for package in (program.packages[0], *program.beside)]
    assert debian.ensure(venv, program, NOWHERE) == unpacked
    assert log.read_text() == said


@pytest.mark.parametrize(("first", "second"), [(PROMETHEUS, PROMTOOL), (ALERTMANAGER, AMTOOL)])
def test_what_comes_in_one_package_is_unpacked_together(
    machine: Path, venv: Path, first: Program, second: Program
) -> None:
    log = put_apt(machine, HOLDS)
    debian.ensure(venv, first, NOWHERE)
    said = log.read_text()
    assert debian.ensure(venv, second, NOWHERE).is_relative_to(venv)
    assert log.read_text() == said


def test_ubuntu_has_nginx_in_another_package(machine: Path, venv: Path) -> None:
    log = put_apt(machine, {"nginx-core": "sbin/nginx"})
    assert debian.ensure(venv, NGINX, NOWHERE).is_relative_to(venv)
    assert log.read_text().splitlines()[-1] == "download nginx-core"


def test_package_lists_are_fetched_where_there_are_none(machine: Path, venv: Path) -> None:
    log = put_apt(machine, HOLDS, lists=False)
    assert debian.ensure(venv, NGINX, NOWHERE).is_relative_to(venv)
    assert log.read_text().splitlines() == ["download nginx", "update", "download nginx"]


@pytest.mark.parametrize("program", debian.PROGRAMS, ids=lambda program: program.names[0])
def test_without_apt_it_says_what_to_install(machine: Path, venv: Path, program: Program) -> None:  # noqa: ARG001
    with pytest.raises(ProgramMissing, match=f"^{program.names[0]}.*install it .*apt install {program.packages[0]}"):
        debian.ensure(venv, program, NOWHERE)


def test_a_package_that_is_not_there_is_said(machine: Path, venv: Path) -> None:
    put(machine, "apt-get", FAILS)
    put(machine, "dpkg-deb", FAILS)
    with pytest.raises(ProgramMissing, match="install it"):
        debian.ensure(venv, NODE_EXPORTER, NOWHERE)


def test_one_that_does_not_run_is_none(machine: Path, venv: Path) -> None:
    put(machine, "nginx", FAILS)
    with pytest.raises(ProgramMissing, match="install it"):
        debian.ensure(venv, NGINX, NOWHERE)


def test_only_what_was_unpacked_has_assets_there(machine: Path, venv: Path) -> None:
    put_apt(machine, HOLDS)
    unpacked = debian.ensure(venv, PROMETHEUS, NOWHERE)
    assert debian.assets(unpacked, venv, "usr/share") == venv / "debian" / "usr" / "share"
    assert debian.assets(put(machine, "prometheus", WORKS), venv, "usr/share") is None


def test_a_program_is_run_with_its_words_and_status(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    put(machine, "promtool", f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\nsys.exit(3 * (len(sys.argv) > 2))")
    assert debian.main(["promtool", "check", "rules"]) == 3
    assert capfd.readouterr().out.strip() == "['check', 'rules']"
    assert debian.main(["unheard-of"]) == 2
    assert "promtool" in capfd.readouterr().out
