"""docker-compose.yml, the Dockerfiles and nginx' configuration, as far as they can be checked without Docker."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
import yaml

from app.main import BODY_BYTES_MAX

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
PACKAGES = ("app", "app_llm", "setup_milvus")
NGINX = ROOT / "deploy" / "nginx"


def compose(**variables: str) -> dict[str, Any]:
    """The compose file as `variables` and the defaults of `${NAME:-default}` make it."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: variables.get(m[1], m[2]), COMPOSE.read_text())
    assert "${" not in text, "a variable without a default"
    return dict(yaml.safe_load(text))


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str

    def words(self) -> list[str]:
        """The value's words, without `--flags`."""
        return [word for word in self.value.split() if not word.startswith("--")]

    def exec_form(self) -> list[str]:
        """The value as the JSON array that the exec form is. Fails for the shell form."""
        return [str(word) for word in json.loads(self.value)]


def stages(path: Path) -> list[list[Instruction]]:
    """A Dockerfile's instructions, stage by stage; what comes before the first FROM is stage 0."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    found: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, value))
    return found


def final_stage(package: str, name: str) -> list[Instruction]:
    """The instructions called `name` in the last stage of a package's Dockerfile."""
    return [i for i in stages(ROOT / package / "Dockerfile")[-1] if i.name == name]


def local_copies(package: str) -> list[tuple[str, str]]:
    """(source, destination) of what the last stage copies from the repository."""
    pairs = []
    for instruction in final_stage(package, "COPY"):
        if "--from=" not in instruction.value:
            *sources, destination = instruction.words()
            pairs += [(source, destination) for source in sources]
    return pairs


def imported_files(package: str) -> set[Path]:
    """Every file of ours that `python -m package` can import, also inside functions; relative to the root."""
    pending = [ROOT / package / "__main__.py"]
    seen: set[Path] = set()
    while pending:
        file = pending.pop()
        if file.relative_to(ROOT) in seen:
            continue
        seen.add(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: this test does not follow relative imports"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                for length in range(1, len(parts) + 1):
                    module = ROOT.joinpath(*parts[:length])
                    pending += [path for path in (module / "__init__.py", module.with_suffix(".py")) if path.is_file()]
    return seen


def directive(file: str, name: str) -> str:
    """The value of a directive that one of nginx' files has exactly once."""
    (value,) = re.findall(rf"^\s*{name}\s+([^;]+);", (NGINX / file).read_text(), re.MULTILINE)
    return str(value)


def seconds(value: str) -> int:
    """nginx' or compose's `30s`."""
    assert re.fullmatch(r"\d+s", value)
    return int(value[:-1])


def settings(package: str) -> dict[str, Any]:
    """The environment variables of a package's Settings class, with their literal defaults."""
    tree = ast.parse((ROOT / package / "settings.py").read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    prefix = re.search(r"env_prefix='(\w+)'", ast.unparse(ast.Module(body, [])))
    assert prefix is not None
    return {
        f"{prefix[1]}{node.target.id}".upper(): _literal(node.value.args[0])
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call)
    }


def _literal(default: ast.expr) -> Any:
    """None for a default that is made by a call: nothing here is about those."""
    return None if isinstance(default, ast.Call) else ast.literal_eval(default)


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
MONITORING = [name for name, service in SERVICES.items() if service.get("profiles") == ["monitoring"]]
BUILT = {
    name: Path(service["build"]["dockerfile"]).parent.name for name, service in SERVICES.items() if "build" in service
}


def has_healthcheck(name: str) -> bool:
    """In the compose file, or in the Dockerfile of what we build."""
    return "healthcheck" in SERVICES[name] or (name in BUILT and bool(final_stage(BUILT[name], "HEALTHCHECK")))


def test_it_is_valid_compose() -> None:
    # The schema of the Compose specification comes with check-jsonschema.
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_profiles() -> None:
    assert {profile for service in SERVICES.values() for profile in service.get("profiles", [])} == {
        "cpu",
        "gpu",
        "setup",
        "admin",
        "monitoring",
        "monitoring-gpu",
    }
    assert SERVICES["app_llm"]["profiles"] == ["cpu"]
    assert SERVICES["app_llm-gpu"]["profiles"] == ["gpu"]


def test_the_gpu_service_reserves_a_gpu() -> None:
    (device,) = SERVICES["app_llm-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", SERVICES)
def test_the_image_is_pinned(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert re.match(r"v?\d+\.\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\d", tag), tag


@pytest.mark.parametrize("name", BUILT)
def test_the_dockerfile_and_its_lock_are_there(name: str) -> None:
    build = SERVICES[name]["build"]
    arguments: dict[str, str] = build.get("args", {})
    builder = stages(ROOT / build["context"] / build["dockerfile"])[1]
    declared = {word.partition("=")[0] for i in builder if i.name == "ARG" for word in i.words()}
    assert arguments.keys() <= declared
    copied = [i.words()[0] for i in builder if i.name == "COPY"]
    locks = [re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], path) for path in copied if path.endswith(".lock")]
    assert len(locks) == (2 if name.startswith("app_llm") else 1)
    for lock in locks:
        assert (ROOT / lock).is_file(), lock


def test_the_model_service_image_is_built_for_the_backends_that_it_is_set_to_use() -> None:
    arguments = compose(PHAROS_LLM_ENCODER_BACKEND="onnx-int8")["services"]["app_llm"]["build"]["args"]
    assert arguments == {"ACCELERATOR": "cpu", "ENCODER_BACKEND": "onnx-int8", "RERANKER_BACKEND": "torch"}


@pytest.mark.parametrize("name", SERVICES)
def test_it_says_when_it_is_healthy_or_runs_once(name: str) -> None:
    assert has_healthcheck(name) != (SERVICES[name]["restart"] == "no")


@pytest.mark.parametrize("name", [name for name in SERVICES if "depends_on" in SERVICES[name]])
def test_it_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name]["depends_on"].items():
        assert how["condition"] == "service_healthy"
        assert has_healthcheck(needed)
        # Compose refuses a needed service whose profile is off.
        optional = set(SERVICES[needed].get("profiles", [])) - set(SERVICES[name].get("profiles", []))
        assert how.get("required", True) != bool(optional), needed


def test_the_gateway_waits_for_the_store_and_either_model_service() -> None:
    assert SERVICES["app"]["depends_on"].keys() == {"milvus", "app_llm", "app_llm-gpu"}


@pytest.mark.parametrize(("variables", "open_to_the_network"), [({}, set()), ({"PHAROS_BIND": "0.0.0.0"}, {"nginx"})])
def test_ports_are_on_loopback_unless_nginx_is_opened(variables: dict[str, str], open_to_the_network: set[str]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose(**variables)["services"].items()}
    assert ports["nginx"]
    assert {name for name in ports if not all(p.startswith("127.0.0.1:") for p in ports[name])} == open_to_the_network


def test_data_is_kept_under_volumes() -> None:
    assert "volumes" not in compose()
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert mounts
    assert [mount for mount in mounts if not mount.startswith("./volumes/") and not mount.endswith(":ro")] == []


@pytest.mark.parametrize("name", BUILT)
def test_addresses_lead_to_services(name: str) -> None:
    environment: dict[str, Any] = SERVICES[name]["environment"]
    wanted = {variable for variable in ("PHAROS_MODEL_URL", "PHAROS_MILVUS_URI") if variable in settings(BUILT[name])}
    assert wanted <= environment.keys()
    for variable in wanted:
        url = urlsplit(environment[variable])
        named = [
            service for other, service in SERVICES.items() if other == url.hostname or url.hostname in _aliases(service)
        ]
        assert len(named) == (2 if variable == "PHAROS_MODEL_URL" else 1)
        assert all(str(service["ports"][0]).endswith(f":{url.port}") for service in named)


def _aliases(service: dict[str, Any]) -> list[str]:
    networks = service.get("networks", {})
    return list(networks["default"]["aliases"]) if isinstance(networks, dict) and "default" in networks else []


@pytest.mark.parametrize("name", BUILT)
def test_settings_given_to_containers_exist(name: str) -> None:
    given = {str(variable) for variable in SERVICES[name]["environment"]}
    given |= {word.partition("=")[0] for env in final_stage(BUILT[name], "ENV") for word in env.words()}
    assert {variable for variable in given if variable.startswith("PHAROS_")} <= settings(BUILT[name]).keys()


@pytest.mark.parametrize("name", [name for name in BUILT if SERVICES[name]["restart"] != "no"])
def test_running_answers_may_finish_before_the_container_is_killed(name: str) -> None:
    (grace,) = [value for key, value in settings(BUILT[name]).items() if key.endswith("_SHUTDOWN_GRACE_SECONDS")]
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > grace


def test_there_may_be_many_gateways() -> None:
    # What has a published port or a name of its own there can be only one of.
    assert not {"ports", "container_name"} & SERVICES["app"].keys()
    assert SERVICES["app"]["deploy"]["replicas"] == "1"
    assert compose(PHAROS_APP_REPLICAS="4")["services"]["app"]["deploy"]["replicas"] == "4"


def test_nginx_has_no_more_rights_than_the_gateway() -> None:
    for right in ("read_only", "cap_drop", "security_opt", "tmpfs"):
        assert SERVICES["nginx"][right] == SERVICES["app"][right]
    assert SERVICES["nginx"]["env_file"] == []
    assert "unprivileged" in SERVICES["nginx"]["image"]
    written = re.findall(r"^\s*(?:pid|\w+_temp_path)\s+(\S+);", (NGINX / "nginx.conf").read_text(), re.MULTILINE)
    assert len(written) == 6
    assert all(path.startswith(f"{SERVICES['nginx']['tmpfs'][0]}/") for path in written)


def test_nginx_runs_our_files() -> None:
    (mount,) = SERVICES["nginx"]["volumes"]
    source, target, mode = mount.split(":")
    assert ((ROOT / source).resolve(), mode) == (NGINX, "ro")
    assert SERVICES["nginx"]["command"] == ["nginx", "-c", f"{target}/nginx.conf"]
    included = re.findall(r"^\s*include\s+(\S+);", (NGINX / "nginx.conf").read_text(), re.MULTILINE)
    assert {"nginx.conf", *included} == {file.name for file in NGINX.iterdir()}


def test_nginx_is_where_it_is_looked_for_and_finds_the_gateways() -> None:
    listens = directive("gateway.conf", "listen")
    assert SERVICES["nginx"]["ports"] == [f"127.0.0.1:8000:{listens}"]
    path = re.findall(r"location = (\S+)", (NGINX / "gateway.conf").read_text())
    assert SERVICES["nginx"]["healthcheck"]["test"][-1] == f"http://127.0.0.1:{listens}{path[0]}"
    name, port = directive("upstream.conf", "server").split()[0].split(":")
    assert SERVICES[name]["environment"]["PHAROS_PORT"] == port
    # Containers come and go, so their name is looked up again and again, at Docker's own server.
    assert "resolve" in directive("upstream.conf", "server").split()
    assert directive("upstream.conf", "resolver").startswith("127.0.0.11 valid=")


def test_nginx_and_the_gateway_agree() -> None:
    defaults = settings("app")
    assert int(directive("gateway.conf", "client_max_body_size")) == BODY_BYTES_MAX
    assert f"{BODY_BYTES_MAX:,} bytes" in (NGINX / "gateway.conf").read_text()
    silence = seconds(directive("gateway.conf", "proxy_read_timeout"))
    assert silence > 2 * defaults["PHAROS_PING_SECONDS"]
    assert silence > defaults["PHAROS_MODEL_READ_TIMEOUT_SECONDS"]
    retry_after = re.search(r"\$pharos_retry_after \{[^}]*default (\d+);", (NGINX / "gateway.conf").read_text())
    assert retry_after is not None
    assert int(retry_after[1]) == defaults["PHAROS_RETRY_AFTER_SECONDS"]
    # nginx closes idle connections before uvicorn does.
    uvicorns = inspect.signature(uvicorn.run).parameters["timeout_keep_alive"].default
    assert seconds(directive("upstream.conf", "keepalive_timeout")) < uvicorns
    assert "timeout_keep_alive" not in (ROOT / "app" / "__main__.py").read_text()


def test_nginx_lets_running_answers_finish() -> None:
    patience = seconds(directive("nginx.conf", "worker_shutdown_timeout"))
    assert (
        settings("app")["PHAROS_SHUTDOWN_GRACE_SECONDS"] <= patience < seconds(SERVICES["nginx"]["stop_grace_period"])
    )


@pytest.mark.parametrize("name", MONITORING)
def test_what_watches_has_no_rights_of_root(name: str) -> None:
    for right in ("read_only", "cap_drop", "security_opt", "tmpfs"):
        assert SERVICES[name][right] == SERVICES["app"][right]
    assert "env_file" not in SERVICES[name]  # none of the settings is for it, and keys are among them
    assert "cap_add" not in SERVICES[name]


def test_it_is_known_what_watches() -> None:
    assert set(MONITORING) == {"prometheus", "alertmanager", "loki", "tempo", "grafana", "node-exporter"}


def test_what_is_kept_is_kept_for_a_time_and_no_longer() -> None:
    flags = dict(word.removeprefix("--").split("=", 1) for word in SERVICES["prometheus"]["command"])
    assert re.fullmatch(r"\d+d", flags["storage.tsdb.retention.time"])
    assert re.fullmatch(r"\d+GB", flags["storage.tsdb.retention.size"])
    loki = yaml.safe_load((ROOT / "monitoring" / "loki" / "loki.yaml").read_text())
    assert re.fullmatch(r"\d+h", loki["limits_config"]["retention_period"])
    assert loki["compactor"]["retention_enabled"]  # without it the period means nothing
    tempo = yaml.safe_load((ROOT / "monitoring" / "tempo" / "tempo.yaml").read_text())
    assert re.fullmatch(r"\d+h", tempo["compactor"]["compaction"]["block_retention"])


def test_loki_takes_what_we_send() -> None:
    loki = yaml.safe_load((ROOT / "monitoring" / "loki" / "loki.yaml").read_text())
    assert loki["limits_config"]["allow_structured_metadata"]
    assert loki["limits_config"]["discover_service_name"] == []  # no label but ours
    (schema,) = loki["schema_config"]["configs"]
    assert (schema["store"], schema["schema"]) == ("tsdb", "v13")  # what structured metadata needs


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_from_the_repository_is_there(name: str) -> None:
    sources = [mount.split(":")[0] for mount in SERVICES[name].get("volumes", [])]
    ours = [source for source in sources if source.startswith("./") and not source.startswith("./volumes/")]
    assert [source for source in ours if not (ROOT / source).exists()] == []


@pytest.mark.parametrize(("password", "starts"), [("", False), ("a good one", True)])
def test_grafana_starts_only_with_a_password(password: str, starts: bool) -> None:
    grafana = compose(GRAFANA_PASSWORD=password)["services"]["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == (password or None)
    shell, option, script = grafana["entrypoint"]
    # `$$` is a dollar sign that is not Compose's; the image's own program is stood in for.
    script = script.replace("$$", "$").replace("/run.sh", "echo started")
    run = subprocess.run(
        [shell, option, script],
        env={"GF_SECURITY_ADMIN_PASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode == 0, "started" in run.stdout) == (starts, starts)
    assert starts or "GRAFANA_PASSWORD" in run.stdout


def test_grafana_lets_nobody_in_without_a_name() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == environment["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_grafana_opens_on_a_dashboard_of_ours() -> None:
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    folders = dict(reversed(mount.removesuffix(":ro").split(":")) for mount in SERVICES["grafana"]["volumes"])
    assert (ROOT / folders[str(home.parent)] / home.name).is_file()


def test_prometheus_finds_everything_where_it_is() -> None:
    ports = {  # where each listens inside of its container
        "app": SERVICES["app"]["environment"]["PHAROS_PORT"],
        "app_llm": SERVICES["app_llm"]["environment"]["PHAROS_LLM_PORT"],
        "setup": str(settings("setup_milvus")["PHAROS_INGEST_METRICS_PORT"]),
        "milvus": "9091",
        "node-exporter": "9100",
        "dcgm-exporter": "9400",
        "tempo": "3200",
        **{name: SERVICES[name]["ports"][0].split(":")[-1] for name in ("alertmanager", "loki", "grafana")},
    }
    config = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
    found = {}
    for job in config["scrape_configs"]:
        for how in job.get("dns_sd_configs", []):
            (name,) = how["names"]
            found[name] = str(how["port"])
        for how in job.get("static_configs", []):
            (address,) = how["targets"]
            name, _, found[name] = address.partition(":")
    assert found.pop("localhost") == SERVICES["prometheus"]["ports"][0].split(":")[-1]
    (host,) = SERVICES["prometheus"]["extra_hosts"]
    assert found.pop(host.split(":")[0]) == "9646"
    assert found == ports
    assert found.keys() <= SERVICES.keys()
    (told,) = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert told == f"alertmanager:{ports['alertmanager']}"
    # More than one, none, or now and then: found by name.
    by_name = {job["job_name"] for job in config["scrape_configs"] if "dns_sd_configs" in job}
    assert by_name == {"app", "app_llm", "setup_milvus", "gpu"}


def test_the_ingestion_job_can_be_scraped() -> None:
    assert SERVICES["setup"]["environment"]["PHAROS_INGEST_METRICS_HOST"] == "0.0.0.0"


def test_every_variable_is_in_the_example() -> None:
    read = set(re.findall(r"\$\{(\w+):-", re.sub("#.*", "", COMPOSE.read_text())))
    documented = set(re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert read <= documented


@pytest.mark.parametrize("package", PACKAGES)
def test_the_image_is_not_run_as_root(package: str) -> None:
    uid = final_stage(package, "USER")[-1].value.partition(":")[0]
    # A number, for Kubernetes does not take a name for proof (runAsNonRoot).
    assert uid.isdigit()
    assert int(uid) > 0


@pytest.mark.parametrize("package", PACKAGES)
def test_the_image_runs_the_service_in_exec_form(package: str) -> None:
    (command,) = final_stage(package, "CMD")
    entrypoint = [word for i in final_stage(package, "ENTRYPOINT") for word in i.exec_form()]
    assert (entrypoint + command.exec_form())[:3] == ["python", "-m", package]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_image_holds_what_the_service_imports(package: str) -> None:
    copied = local_copies(package)
    for source, destination in copied:
        assert destination == (source if source.endswith("/") else f"{Path(source).parent}/")
    imported = imported_files(package)
    sources = [source for source, _ in copied]
    missing = [
        f for f in imported if not any(f"{f}" == s or (s.endswith("/") and f"{f}".startswith(s)) for s in sources)
    ]
    assert missing == []
    assert {source.partition("/")[0] for source in sources} == {file.parts[0] for file in imported}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_that_is_copied_is_ignored(package: str) -> None:
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    copies = [i for stage in stages(ROOT / package / "Dockerfile") for i in stage if i.name == "COPY"]
    sources = [word for i in copies if "--from=" not in i.value for word in i.words()[:-1]]
    assert sources
    assert [source for source in sources if f"!{source.partition('/')[0]}/" not in admitted] == []
