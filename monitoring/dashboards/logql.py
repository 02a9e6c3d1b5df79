"""LogQL over what the services send. Streams are chosen by label, requests by the fields of their JSON lines."""

from __future__ import annotations

from contracts.telemetry import APP, APP_LLM, REQUEST_EVENT, SETUP

GATEWAYS = f'{{service="{APP}"}}'
ALL_SERVICES = f'{{service=~"{APP}|{APP_LLM}|{SETUP}"}}'


def requests(*where: str) -> str:
    """The lines of requests for which all of `where` hold, as `outcome="error"` or `total_seconds > 1`."""
    # The line filter spares Loki from parsing the lines of no request.
    return " | ".join((f"{GATEWAYS} |= `{REQUEST_EVENT}` | json", f"event=`{REQUEST_EVENT}`", *where))


def count_requests(where: str, by: str, window: str) -> str:
    """How many such lines there were in each `window`, by a field."""
    return f"sum by ({by}) (count_over_time({requests(where)} [{window}]))"


def complaints() -> str:
    """Lines at the level of a warning or worse, of any service."""
    return ALL_SERVICES[:-1] + ', level=~"warning|error|critical"}'


def of_request(request_id: str) -> str:
    """What the gateway logged for one request."""
    return f"{ALL_SERVICES} | request_id=`{request_id}`"


def of_trace(trace_id: str) -> str:
    """What any service logged for one request: its id goes no further than the gateway, its trace does."""
    return f"{ALL_SERVICES} | trace_id=`{trace_id}`"
