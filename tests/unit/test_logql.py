"""The checker of LogQL: what it lets pass and what it refuses, and the queries in the documentation."""

from __future__ import annotations

import re

import pytest

from tests.support.logql import LogQLError, check
from tests.support.processes import ROOT

RIGHT = (
    '{service="app"}',
    '{service=~"app|app_llm", env!="test"} |= "refused" != "draining" |~ `5\\d\\d`',
    '{service="app"} | request_id="abc" or trace_id="x"',
    '{service="app"} | json | total_seconds > 1.5 and outcome=~"error|timeout", status >= 500',
    '{service="app"} | json | (outcome="ok" or outcome="error") and first_token_seconds > 2',
    '{service="app"} | json outcome="outcome" | outcome="error"',
    '{service="app"} | json | line_format `{{.route}} {{.total_seconds}}`',
    '{service="app"} | json | label_format seconds=total_seconds | seconds > 3',
    'sum by (outcome) (count_over_time({service="app"} | json | event="request" [1m]))',
    'topk(10, sum by (topic) (count_over_time({service="app"} | json [1h])))',
    'quantile_over_time(0.99, {service="app"} | json | unwrap total_seconds [5m]) by (route)',
    'sum(rate({service="app"} | json | outcome="error" [5m])) / sum(rate({service="app"}[5m])) > 0.1',
)
WRONG = (
    ('{service="app"', "not closed"),
    ("{}", "empty selector"),
    ('{service=~".*"}', "every stream passes"),
    ('{job="app"}', "no label"),
    ('{service="app"} |= refused', "no string"),
    ('{service="app"} | jsn', "unknown stage"),
    ('{service="app"} | logfmt', "the lines are JSON"),
    ('{service="app"} | json | seconds > 1', "unknown field"),
    ('{service="app"} | outcome="ok"', "field before json"),
    ('{service="app"} | json | total_seconds > "1"', "number as text"),
    ('{service="app"} | json | route > 1', "text as number"),
    ('{service="app"} | json | line_format `{{.seconds}}`', "unknown field in a template"),
    ('{service="app"} | json | label_format a=seconds', "unknown field renamed"),
    ('{service="app"} | json outcome="outcome" | status >= 500', "field not extracted"),
    ('count_over_time({service="app"} | json)', "no range"),
    ('count_over_time({service="app"} | json | unwrap total_seconds [1m])', "counts lines"),
    ('max_over_time({service="app"} | json [1m])', "nothing unwrapped"),
    ('max_over_time({service="app"} | json | unwrap route [1m])', "unwraps text"),
    ('count_over_time({service="app"}[1m]) by (service)', "no grouping"),
    ('sum by (seconds) (count_over_time({service="app"} | json [1m]))', "groups by an unknown field"),
    ('topk(sum(rate({service="app"}[1m])))', "topk without its number"),
    ('sum(3, rate({service="app"}[1m]))', "sum with a number"),
    ('median_over_time({service="app"} | json | unwrap total_seconds [1m])', "unknown function"),
)


@pytest.mark.parametrize("query", RIGHT)
def test_passes(query: str) -> None:
    check(query)


@pytest.mark.parametrize(("query", "why"), WRONG, ids=[why for _, why in WRONG])
def test_refuses(query: str, why: str) -> None:  # noqa: ARG001
    with pytest.raises(LogQLError):
        check(query)


def test_queries_in_the_documentation() -> None:
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("monitoring/**/*.md")]
    found = [query for text in texts for query in re.findall(r"```logql\n(.*?)\n```", text.read_text(), re.DOTALL)]
    assert found, "monitoring/README.md has some"
    for block in found:
        for query in block.split("\n\n"):
            check(query)
