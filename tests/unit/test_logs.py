"""Where a process' logs go."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from observability import logs
from observability.loki import SafeLokiHandler
from observability.loki_push import push_url
from observability.settings import TelemetrySettings


@pytest.fixture(autouse=True)
def _level_as_it_was() -> None:
    assert logging.getLogger().level == logging.WARNING


def settings(**given: object) -> TelemetrySettings:
    return TelemetrySettings(_env_file=None, **given)  # type: ignore[call-arg, arg-type]


def test_the_console_shows_what_is_at_its_level_or_above(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("app.somewhere")
    with logs.configure("app", settings(), "info", ["a-secret-key"], CollectorRegistry(), quiet=("quiet",)):
        log.debug("not this")
        log.info("this %s", "a-secret-key")
        logging.getLogger("quiet").info("nor this")
        logging.getLogger("quiet").warning("but this")
    log.warning("and no longer this")
    assert capsys.readouterr().err == "INFO app.somewhere: this ***\nWARNING quiet: but this\n"


def test_the_console_may_show_less(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.configure(
        "setup_milvus",
        settings(),
        "info",
        [],
        CollectorRegistry(),
        console_level="warning",
        console_format="%(message)s",
    ):
        logging.info("for Loki only")
        logging.warning("for both")
    assert capsys.readouterr().err == "for both\n"


def test_everything_is_as_before_afterwards() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with logs.configure("app", settings(loki_url="http://127.0.0.1:9"), "debug", [], CollectorRegistry()):
        assert sum(isinstance(handler, SafeLokiHandler) for handler in root.handlers) == 1
        assert root.level == logging.DEBUG
    assert (root.handlers, root.level) == before


def test_without_an_address_there_is_no_handler() -> None:
    with logs.configure("app", settings(), "info", [], CollectorRegistry()):
        assert not any(isinstance(handler, SafeLokiHandler) for handler in logging.getLogger().handlers)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://loki:3100", "http://loki:3100/loki/api/v1/push"),
        ("http://loki:3100/", "http://loki:3100/loki/api/v1/push"),
        ("https://host/prefix", "https://host/prefix/loki/api/v1/push"),
        ("https://logs.grafana.net/loki/api/v1/push", "https://logs.grafana.net/loki/api/v1/push"),
    ],
)
def test_lokis_address_is_its_hosts_or_the_whole(given: str, address: str) -> None:
    assert push_url(settings(loki_url=given).loki_url) == address


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("loki:3100", "must be like http://HOST:3100"),
        ("ftp://loki:3100", "must be like http://HOST:3100"),
        ("http://me:pass-word@loki:3100", "has a user in it"),
    ],
)
def test_an_address_that_is_none_is_refused(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        settings(loki_url=given)
