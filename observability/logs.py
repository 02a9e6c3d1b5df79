"""Where a process' logs go: a console, and Loki where there is one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry

from contracts.telemetry import REQUEST_LOGGER
from observability.log_lines import CONSOLE_FORMAT, ConsoleFormatter, Lines
from observability.loki import SafeLokiHandler
from observability.redaction import Redactor
from observability.settings import TelemetrySettings


@contextmanager
def configure(
    service: str,
    settings: TelemetrySettings,
    log_level: str,
    secrets: Collection[str],
    registry: CollectorRegistry,
    *,
    console_level: str | None = None,
    console_format: str = CONSOLE_FORMAT,
    quiet: Sequence[str] = (),
) -> Iterator[None]:
    """Within it, what is logged at `log_level` or above goes to the console (at `console_level`, if that is another)
    and, with PHAROS_LOKI_URL, to Loki; of the `quiet` loggers only warnings do. `secrets` are masked wherever they
    stand. What Loki gets is counted in `registry`. The end takes at most 2 s."""
    root = logging.getLogger()
    redact = redactor(settings, secrets)
    console = logging.StreamHandler()
    least = logging.getLevelNamesMapping()[(console_level or log_level).upper()]
    console.addFilter(lambda record: record.levelno >= least)  # tqdm's stand-in takes filters over, but no level
    console.addFilter(lambda record: record.name != REQUEST_LOGGER or record.levelno >= logging.WARNING)
    console.setFormatter(ConsoleFormatter(redact, console_format))
    before = root.level
    with ExitStack() as stack:
        root.setLevel(log_level.upper())
        stack.callback(root.setLevel, before)
        for name in (*quiet, "urllib3"):  # which would tell of each push
            logging.getLogger(name).setLevel(logging.WARNING)
        root.addHandler(console)
        stack.callback(root.removeHandler, console)
        if not settings.loki_url:
            # Not even made, where nobody would read them.
            requests = logging.getLogger(REQUEST_LOGGER)
            stack.callback(requests.setLevel, requests.level)
            requests.setLevel(logging.WARNING)
        else:
            loki = loki_handler(service, settings, redact, registry)
            stack.callback(loki.sender.stop)
            root.addHandler(loki)
            stack.callback(root.removeHandler, loki)
        yield


def loki_handler(
    service: str, settings: TelemetrySettings, redact: Redactor, registry: CollectorRegistry
) -> SafeLokiHandler:
    """The handler that `settings` describe. It has a thread; end it with `sender.stop()`."""
    password = settings.loki_password.get_secret_value()
    return SafeLokiHandler(
        settings.loki_url,
        {"service": service, "env": settings.environment},
        (settings.loki_user, password) if settings.loki_user else None,
        Lines(redact, texts=settings.log_texts),
        registry,
    )


def redactor(settings: TelemetrySettings, secrets: Collection[str] = ()) -> Redactor:
    """Takes out `secrets`, Loki's password, and, unless they are let in, texts."""
    return Redactor([*secrets, settings.loki_password.get_secret_value()], texts=settings.log_texts)
