"""Can this machine run Pharos: a line for every reason why not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.preflight import environment_with_dotenv, in_use, local_ports, milvus_lite_port, problems

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PHAROS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment(gateway: int, models: int, milvus: int) -> dict[str, str]:
    return {
        "PHAROS_PORT": str(gateway),
        "PHAROS_LLM_PORT": str(models),
        "PHAROS_MILVUS_URI": f"http://127.0.0.1:{milvus}",
    }


def port_problems(environment: dict[str, str], root: Path) -> list[str]:
    found = problems("cpu", installed=True, ports=True, root=root, environment=environment)
    return [problem for problem in found if problem.startswith("Port ")]


def test_a_machine_that_runs_these_tests_can_install_pharos(tmp_path: Path) -> None:
    assert problems("cpu", installed=True, ports=False, root=tmp_path, environment={}) == []


def test_free_ports_are_no_problem(tmp_path: Path) -> None:
    assert port_problems(environment(*free_ports(3)), tmp_path) == []


@pytest.mark.parametrize(
    ("place", "name", "variable"),
    [
        (0, "the gateway", "PHAROS_PORT"),
        (1, "the model service", "PHAROS_LLM_PORT"),
    ],
)
def test_a_port_in_use_is_named_with_the_variable_that_moves_it(
    tmp_path: Path, busy_port: int, place: int, name: str, variable: str
) -> None:
    ports = free_ports(2)
    ports.insert(place, busy_port)
    (problem,) = port_problems(environment(*ports), tmp_path)
    assert f"Port {busy_port} ({name}" in problem
    assert variable in problem


def test_every_port_in_use_is_reported(tmp_path: Path, busy_port: int) -> None:
    assert len(port_problems(environment(busy_port, busy_port, *free_ports(1)), tmp_path)) == 2


def test_a_milvus_that_is_named_and_answers_is_used_instead_of_lite(busy_port: int) -> None:
    assert milvus_lite_port({"PHAROS_MILVUS_URI": f"http://127.0.0.1:{busy_port}"}) is None
    (free,) = free_ports(1)
    assert milvus_lite_port({"PHAROS_MILVUS_URI": f"http://localhost:{free}"}) == free
    assert milvus_lite_port({"PHAROS_MILVUS_URI": "http://milvus.example.org:19530"}) is None


def test_ports_do_not_matter_to_an_installation(tmp_path: Path, busy_port: int) -> None:
    everything_busy = environment(busy_port, busy_port, busy_port)
    assert problems("cpu", installed=True, ports=False, root=tmp_path, environment=everything_busy) == []


def test_a_port_is_in_use_while_something_listens(busy_port: int) -> None:
    assert in_use(busy_port)
    assert not in_use(*free_ports(1))


def test_an_unknown_accelerator_is_refused_by_name(tmp_path: Path) -> None:
    (problem,) = problems("tpu", installed=True, ports=False, root=tmp_path, environment={})
    assert problem == "ACCELERATOR=tpu is neither cpu nor gpu."


def test_a_gpu_needs_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (problem,) = problems("gpu", installed=True, ports=False, root=tmp_path, environment={})
    assert "nvidia-smi" in problem
    driver = tmp_path / "nvidia-smi"
    driver.touch(mode=0o755)
    assert problems("gpu", installed=True, ports=False, root=tmp_path, environment={}) == []


def test_the_ports_are_the_settings_own_defaults() -> None:
    assert [port for _, port, _ in local_ports({})] == [8000, 8080, 19530]


@pytest.mark.parametrize("uri", ["http://milvus.example.org:19530", "https://in03.api.gcp-us-west1.zillizcloud.com"])
def test_milvus_elsewhere_takes_no_port_here(uri: str) -> None:
    names = [name for name, _, _ in local_ports({"PHAROS_MILVUS_URI": uri})]
    assert names == ["the gateway", "the model service"]


def test_dotenv_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# PHAROS_LLM_PORT=1\n\nPHAROS_PORT=9000\n  PHAROS_MILVUS_URI = 'http://localhost:9001'\nPHAROS_COLLECTION=\"a=b\"\n"
    )
    found = environment_with_dotenv(tmp_path)
    assert found["PHAROS_COLLECTION"] == "a=b"
    assert [port for _, port, _ in local_ports(found)] == [9000, 8080, 9001]


def test_the_environment_wins_over_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PHAROS_PORT=9000\nPHAROS_LLM_PORT=9001\n")
    monkeypatch.setenv("PHAROS_PORT", "9002")
    found = environment_with_dotenv(tmp_path)
    assert (found["PHAROS_PORT"], found["PHAROS_LLM_PORT"]) == ("9002", "9001")


def test_without_dotenv_there_is_just_the_environment(tmp_path: Path) -> None:
    assert environment_with_dotenv(tmp_path) == dict(os.environ)


def test_the_example_moves_no_port() -> None:
    example = ROOT / ".env.example"
    ports = dict(line.split("=", 1) for line in example.read_text().splitlines() if line.startswith("PHAROS_"))
    assert local_ports(ports) == local_ports({})


def run_preflight(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -I -S: as on a machine where nothing is installed.
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from launch.preflight import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_command_says_every_problem_and_fails(tmp_path: Path) -> None:
    done = run_preflight(tmp_path, "--accelerator", "tpu", "--no-ports")
    assert (done.returncode, done.stderr) == (1, "pharos: ACCELERATOR=tpu is neither cpu nor gpu.\n")


def test_the_command_reads_dotenv_in_the_folder(tmp_path: Path, busy_port: int) -> None:
    (tmp_path / ".env").write_text(f"PHAROS_PORT={busy_port}\n")
    done = run_preflight(tmp_path)
    assert done.returncode == 1
    assert f"pharos: Port {busy_port} (the gateway) is in use" in done.stderr
