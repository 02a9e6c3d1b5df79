"""The settings classes, and `.env.example`, which must say the same as they do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from app.settings import Settings as GatewaySettings
from app_llm.settings import Settings as ModelServiceSettings
from observability.settings import TelemetrySettings
from setup_milvus.settings import Settings as IngestionSettings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
CLASSES: tuple[type[BaseSettings], ...] = (GatewaySettings, ModelServiceSettings, IngestionSettings, TelemetrySettings)
CONTAINERS = "Containers"
"""Title of the section at the end, whose variables only docker-compose.yml reads."""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    for name in [name for name in os.environ if name.upper().startswith("PHAROS_")]:
        monkeypatch.delenv(name)


def lines_of_the_example() -> list[str]:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    titles = [i for i, line in enumerate(lines) if line.startswith("#") and line.strip("#- ") == CONTAINERS]
    assert len(titles) == 1, f"one section is titled {CONTAINERS!r}"
    return lines[: titles[0]]


def documented() -> list[tuple[str, str, str]]:
    """Name, value and the comment above, of every variable before the containers' section."""
    lines = lines_of_the_example()
    found = []
    for above, line in zip(["", *lines], lines, strict=False):
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, line
            found.append((name, value, above.removeprefix("# ")))
    return found


def defined() -> dict[str, tuple[str, str]]:
    """Default and description of every setting, by variable."""
    return {
        f"{settings.model_config['env_prefix']}{name}".upper(): (str(field.default), field.description or "")
        for settings in CLASSES
        for name, field in settings.model_fields.items()
    }


def test_the_example_has_each_setting_exactly_once() -> None:
    names = [name for name, _, _ in documented()]
    assert sorted(names) == sorted(defined())


def test_the_example_has_every_default_with_its_description_above_it() -> None:
    assert {name: (value, above) for name, value, above in documented()} == defined()


@pytest.mark.parametrize("settings", CLASSES, ids=lambda settings: settings.__module__)
def test_reading_the_example_gives_the_defaults(settings: type[BaseSettings]) -> None:
    assert settings(_env_file=EXAMPLE) == settings(_env_file=None)


@pytest.mark.parametrize("settings", CLASSES, ids=lambda settings: settings.__module__)
def test_every_setting_is_described(settings: type[BaseSettings]) -> None:
    assert [name for name, field in settings.model_fields.items() if not field.description] == []


def test_settings_that_two_classes_share_agree_in_default_and_description() -> None:
    gateway, ingestion = GatewaySettings.model_fields, IngestionSettings.model_fields
    shared = gateway.keys() & ingestion.keys()
    assert shared == {"model_url", "milvus_uri", "milvus_token", "collection"}
    for name in shared:
        assert (gateway[name].default, gateway[name].description) == (
            ingestion[name].default,
            ingestion[name].description,
        )


def test_the_gateways_and_the_model_services_defaults_meet() -> None:
    gateway, models = GatewaySettings(), ModelServiceSettings()
    assert gateway.model_url == f"http://{models.host}:{models.port}"


def test_the_environment_wins_over_dotenv(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PHAROS_PORT=8001\nPHAROS_LLM_PORT=8002\n")
    assert GatewaySettings().port == 8001
    monkeypatch.setenv("PHAROS_PORT", "8003")
    assert GatewaySettings().port == 8003
    assert ModelServiceSettings().port == 8002


@pytest.mark.parametrize("settings", CLASSES, ids=lambda settings: settings.__module__)
def test_settings_cannot_be_changed_once_built(settings: type[BaseSettings]) -> None:
    built = settings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(built, next(iter(settings.model_fields)), "other")


@pytest.mark.parametrize(
    ("variable", "value", "settings"),
    [
        ("PHAROS_PORT", "65536", GatewaySettings),
        ("PHAROS_MIN_SCORE", "1.5", GatewaySettings),
        ("PHAROS_LOG_LEVEL", "loud", GatewaySettings),
        ("PHAROS_COLLECTION", "two words", IngestionSettings),
        ("PHAROS_LLM_ENGINE", "steam", ModelServiceSettings),
        ("PHAROS_LLM_GPU_MEMORY_FRACTION", "0", ModelServiceSettings),
    ],
)
def test_values_out_of_range_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, settings: type[BaseSettings]
) -> None:
    monkeypatch.setenv(variable, value)
    field = variable.removeprefix(str(settings.model_config["env_prefix"])).lower()
    with pytest.raises(ValidationError) as refusal:
        settings()
    assert [error["loc"] for error in refusal.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"requests_max": 63},
            "PHAROS_REQUESTS_MAX=63 can never fill a batch of 64 .PHAROS_[A-Z]+_BATCH_ITEMS.: raise",
        ),
        ({"queue_items": 63}, "PHAROS_QUEUE_ITEMS=63 can never fill a batch of 64 .PHAROS_[A-Z]+_BATCH_ITEMS.: raise"),
        ({"search_batch_items": 3000}, "PHAROS_REQUESTS_MAX=2048 .* batch of 3000 .PHAROS_SEARCH_BATCH_ITEMS."),
        (
            {"request_timeout_seconds": 10, "request_timeout_max_seconds": 5},
            "PHAROS_REQUEST_TIMEOUT_SECONDS=10 is longer than PHAROS_REQUEST_TIMEOUT_MAX_SECONDS=5",
        ),
        ({"cache_similarity": 0.95, "cache_answers": 9}, "PHAROS_CACHE_SIMILARITY=0.95 needs .* PHAROS_CACHE_VECTORS"),
        ({"cache_similarity": 0.95, "cache_vectors": 9}, "PHAROS_CACHE_SIMILARITY=0.95 needs PHAROS_CACHE_ANSWERS"),
        ({"max_tokens": 10, "max_tokens_max": 5}, "PHAROS_MAX_TOKENS=10 is more than PHAROS_MAX_TOKENS_MAX=5"),
    ],
)
def test_limits_that_exclude_each_other_are_refused_with_the_reason(settings: dict[str, int], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        GatewaySettings(**settings)  # type: ignore[arg-type]


def test_limits_that_just_go_together_are_taken() -> None:
    settings = GatewaySettings(
        requests_max=64, queue_items=64, request_timeout_seconds=5, request_timeout_max_seconds=5
    )
    assert (settings.requests_max, settings.queue_items) == (64, 64)


def test_several_model_services_are_separated_by_commas() -> None:
    settings = GatewaySettings(model_url="http://one:1, http://two:2 ,")
    assert settings.model_urls == ["http://one:1", "http://two:2"]


def test_api_keys_are_read_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHAROS_API_KEYS", '{"team": {"key": "a-secret-key", "requests_per_minute": 60}}')
    key = GatewaySettings().api_keys["team"]
    assert (key.key.get_secret_value(), key.requests_per_minute, key.tokens_per_minute) == ("a-secret-key", 60, None)


def test_passages_may_overlap_by_half_at_most() -> None:
    assert IngestionSettings(chunk_tokens=100, chunk_overlap_tokens=50).chunk_overlap_tokens == 50
    with pytest.raises(ValidationError, match="at most half"):
        IngestionSettings(chunk_tokens=100, chunk_overlap_tokens=51)


def test_nothing_simulated_is_a_default() -> None:
    settings = ModelServiceSettings()
    assert (settings.engine, settings.encoder) == ("vllm", "sentence-transformers")


@pytest.mark.parametrize("name", ["loki_url", "traces_endpoint"])
@pytest.mark.parametrize(
    ("url", "why"),
    [("tempo:4318", "must be like http://HOST"), ("http://", "must be like"), ("http://me:secret@tempo", "has a user")],
)
def test_where_logs_and_traces_go_must_be_an_address(name: str, url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why) as refused:
        TelemetrySettings(**{name: url})
    assert f"PHAROS_{name.upper()}" in str(refused.value)
    assert "secret" not in str(refused.value)
