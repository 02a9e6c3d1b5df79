"""LogQL: a grammar of what its documentation describes (grafana.com/docs/loki, "Log queries" and "Metric queries"),
as far as the dashboards and the docs use it, and what of a query can be held against the lines that are really sent."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from contracts.telemetry import LOG_FIELDS, LOG_LABELS, LOG_METADATA, REQUEST_FIELDS

GRAMMAR = r"""
start: log_query | metric

log_query: selector stage*
selector: "{" matcher ("," matcher)* "}"
matcher: NAME (EQ | NEQ | MATCHES | NOT_MATCHES) string
stage: line_filter | "|" (parser | condition | format | "unwrap" unwrapped)
line_filter: (CONTAINS | LINE_MATCHES | NEQ | NOT_MATCHES) string ("or" string)*
parser: "json" (extraction ("," extraction)*)? -> json
    | "logfmt" -> logfmt
    | "regexp" string -> regexp
    | "pattern" string -> pattern
extraction: NAME EQ string
format: "line_format" string -> line_format
    | "label_format" renaming ("," renaming)* -> label_format
    | ("drop" | "keep") NAME ("," NAME)* -> drop_or_keep
renaming: NAME EQ (string | NAME)
condition: either (("," | "and") either)* | condition "or" condition
?either: comparison | "(" condition ")"
comparison: NAME (EQ | NEQ | MATCHES | NOT_MATCHES) string -> of_text
    | NAME (EQ | EQEQ | NEQ | COMPARES) (NUMBER | DURATION | SIZE) -> of_number
unwrapped: NAME | ("duration" | "duration_seconds" | "bytes") "(" NAME ")"

?metric: sum (COMPARES sum | EQEQ sum | NEQ sum)*
?sum: product (SIGN product)*
?product: atom (TIMES atom)*
?atom: aggregation | range_aggregation | NUMBER | "(" metric ")"
range_aggregation: RANGE_FUNCTION "(" (NUMBER ",")? log_range ")" grouping?
log_range: selector stage* INTERVAL | selector INTERVAL stage*
aggregation: FUNCTION grouping? "(" (NUMBER ",")? metric ")" grouping?
grouping: ("by" | "without") "(" (NAME ("," NAME)*)? ")"
string: QUOTED | RAW

RANGE_FUNCTION.2: /(?:bytes_)?rate\b/ | /(?:count|bytes|absent)_over_time\b/
    | /(?:sum|avg|max|min|first|last|stddev|stdvar|quantile)_over_time\b/
FUNCTION.2: /(?:sum|avg|min|max|count|stddev|stdvar|topk|bottomk|sort_desc|sort)\b/
NAME: /[A-Za-z_]\w*/
DURATION.2: /(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+/
SIZE.2: /\d+(?:\.\d+)?(?:[KMGT]i?B|B)/i
NUMBER: /-?\d+(?:\.\d+)?/
INTERVAL: /\[(?:\d+(?:ms|s|m|h|d|w))+\]/
QUOTED: /"(?:[^"\\\n]|\\.)*"/
RAW: /`[^`]*`/
EQ: "="
EQEQ: "=="
NEQ: "!="
MATCHES: "=~"
NOT_MATCHES: "!~"
CONTAINS: "|="
LINE_MATCHES: "|~"
COMPARES: />=|<=|>|</
SIGN: /[-+]/
TIMES: /[*\/%]/
%ignore /\s+/
%ignore /#[^\n]*/
"""
_PARSER = Lark(GRAMMAR, parser="earley", lexer="dynamic")

TEMPLATE_FIELD = re.compile(r"\.(\w+)")
UNWRAPPING = ("sum", "avg", "max", "min", "first", "last", "stddev", "stdvar", "quantile")
"""Functions over a number that is in the lines; the others count lines or bytes, but for these, which do either:"""
EITHER = ("rate", "absent_over_time")
GROUPING = ("avg", "max", "min", "first", "last", "stddev", "stdvar", "quantile")
"""Functions that take `by` themselves; the others' sum does."""
WITH_PARAMETER = ("quantile_over_time", "topk", "bottomk")
TEXT_FIELDS = {
    "level", "logger", "message", "event", "exception", "route", "method", "outcome", "code", "topic", "api_key",
    "finish_reason", "question", "answer", "time", "stream",
} | set(LOG_LABELS) | set(LOG_METADATA) | {"span_id"}  # fmt: skip
"""Everything else is a number."""


class LogQLError(ValueError):
    """It is no LogQL, or asks for what is not sent. The message says which."""


def check(query: str) -> None:
    """Raise LogQLError unless `query` is LogQL and asks for labels, metadata and fields that are really sent."""
    try:
        tree = _PARSER.parse(query)
    except UnexpectedInput as exc:
        raise LogQLError(f"{query}\n{exc}") from exc
    for selector in tree.find_data("selector"):
        labels = [str(matcher.children[0]) for matcher in selector.find_data("matcher")]
        _known(query, labels, LOG_LABELS, "label")
        # Loki refuses a selector that every stream passes.
        if not any(_demands(matcher) for matcher in selector.find_data("matcher")):
            raise LogQLError(f"{query}: the selector needs a matcher that does not match the empty string")
    for lines in (*tree.find_data("log_query"), *tree.find_data("log_range")):
        _check_stages(query, lines)
    for call in tree.find_data("range_aggregation"):
        _check_range(query, call)
    for grouping in tree.find_data("grouping"):
        _known(query, _names(grouping), _all_fields(), "label to group by")
    for call in (*tree.find_data("aggregation"), *tree.find_data("range_aggregation")):
        function = str(call.children[0])
        # The last child is what it is applied to, or that and a grouping, so that a number there is no parameter.
        given = any(isinstance(child, Token) and child.type == "NUMBER" for child in call.children[1:-1])
        if given != (function in WITH_PARAMETER):
            raise LogQLError(f"{query}: {function} takes {'a' if function in WITH_PARAMETER else 'no'} parameter")


def names(query: str) -> set[str]:
    """The labels, metadata and fields that a LogQL query asks for, but those it makes itself."""
    tree = _PARSER.parse(query)
    asked = {str(matcher.children[0]) for matcher in tree.find_data("matcher")}
    for kind in ("of_text", "of_number", "unwrapped", "grouping"):
        for part in tree.find_data(kind):
            asked.update(_names(part))
    for template in tree.find_data("line_format"):
        asked.update(TEMPLATE_FIELD.findall(_text(template.children[0])))
    for renaming in tree.find_data("renaming"):
        asked.discard(str(renaming.children[0]))
    return asked


def _check_stages(query: str, lines: Tree[Token]) -> None:
    """Fields are there after the parser that reads them, and not before."""
    fields = set(LOG_LABELS) | set(LOG_METADATA)
    for stage in lines.children:
        if not isinstance(stage, Tree) or stage.data != "stage":
            continue
        (inner,) = [child for child in stage.children if isinstance(child, Tree)]
        match inner.data:
            case "json":
                named = [str(extraction.children[0]) for extraction in inner.find_data("extraction")]
                fields |= set(named or _all_fields())
            case "logfmt" | "regexp" | "pattern":
                raise LogQLError(f"{query}: the lines are JSON, not for {inner.data}")
            case "line_format":
                _known(query, TEMPLATE_FIELD.findall(_text(inner.children[0])), fields, "field")
            case "label_format":
                for renaming in inner.find_data("renaming"):
                    new, old = renaming.children[0], renaming.children[-1]
                    _known(query, [str(old)] if isinstance(old, Token) else [], fields, "field")
                    fields.add(str(new))
            case "condition" | "unwrapped" | "drop_or_keep":
                _known(query, _names(inner), fields, "field")
        for comparison in inner.find_data("of_number"):
            if str(comparison.children[0]) in TEXT_FIELDS:
                raise LogQLError(f"{query}: {comparison.children[0]} is text, and compared with a number")


def _check_range(query: str, call: Tree[Token]) -> None:
    function = str(call.children[0])
    unwraps = any(call.find_data("unwrapped"))
    if function not in EITHER and unwraps != (function.removesuffix("_over_time") in UNWRAPPING):
        raise LogQLError(f"{query}: {function} goes {'without' if unwraps else 'with'} unwrap")
    for unwrapped in call.find_data("unwrapped"):
        if _names(unwrapped)[0] in TEXT_FIELDS:
            raise LogQLError(f"{query}: {_names(unwrapped)[0]} is no number")
    grouped = any(isinstance(child, Tree) and child.data == "grouping" for child in call.children)
    if grouped and function.removesuffix("_over_time") not in GROUPING:
        raise LogQLError(f"{query}: {function} takes no grouping; a sum around it does")


def _known(query: str, used: list[str], known: set[str] | tuple[str, ...], what: str) -> None:
    for name in used:
        if name not in known:
            raise LogQLError(f"{query}: no {what} is called {name}")


def _names(tree: Tree[Token]) -> list[str]:
    return [str(token) for token in _tokens(tree) if token.type == "NAME"]


def _tokens(tree: Tree[Token]) -> Iterator[Token]:
    for child in tree.children:
        if isinstance(child, Token):
            yield child
        else:
            yield from _tokens(child)


def _demands(matcher: Tree[Token]) -> bool:
    operator, text = matcher.children[1], _text(matcher.children[2])
    match str(operator):
        case "=":
            return text != ""
        case "=~":
            return re.fullmatch(text, "") is None
        case "!=":
            return text == ""
        case _:
            return re.fullmatch(text, "") is not None


def _text(string: Tree[Token] | Token) -> str:
    assert isinstance(string, Tree)
    quoted = str(string.children[0])
    return quoted[1:-1] if quoted[0] == "`" else quoted[1:-1].replace('\\"', '"').replace("\\\\", "\\")


def _all_fields() -> set[str]:
    return {*LOG_LABELS, *LOG_METADATA, *LOG_FIELDS, *REQUEST_FIELDS}
