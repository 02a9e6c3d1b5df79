"""Log records as JSON lines, and what is never in them."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from contracts import telemetry
from contracts.types import Message, Prompt, Sampling
from observability.context import LogContext, current
from observability.log_lines import LINE_BYTES_MAX, ConsoleFormatter, Lines, capture
from observability.redaction import MASK, Redactor

QUESTION = "Why does my knee hurt, doctor?"
KEY = "team-key-0123456789"


def record(message: object = "hello", *args: object, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("app.requests", level, "file.py", 1, message, args, more.pop("exc_info", None))
    made.__dict__.update(more)
    return made


def fields(made: logging.LogRecord, redact: Redactor | None = None, *, texts: bool = False) -> dict[str, Any]:
    line = Lines(redact or Redactor(texts=texts), texts=texts).line(capture(made))
    return dict(json.loads(line.text))


def test_a_line_has_what_all_lines_have_in_the_contracts_order() -> None:
    made = record("POST %s %d", "/ask", 200)
    made.created = 1_700_000_000.123456
    line = fields(made)
    assert line == {
        "time": "2023-11-14T22:13:20.123456Z",
        "level": "info",
        "logger": "app.requests",
        "message": "POST /ask 200",
    }
    assert list(line) == [name for name in telemetry.LOG_FIELDS if name in line]


def test_every_field_of_the_contract_is_let_through_and_no_other() -> None:
    given: dict[str, Any] = dict.fromkeys(telemetry.REQUEST_FIELDS, 1.5)
    given |= {"event": "request", "request_id": "r", "trace_id": "t", "span_id": "s"}
    line = fields(record(fields={**given, "authorization": KEY, "passages_texts": QUESTION}), texts=True)
    assert line.items() >= given.items()
    assert set(line) == {*telemetry.LOG_FIELDS, *telemetry.REQUEST_FIELDS} - {"exception"}
    assert list(line) == [name for name in (*telemetry.LOG_FIELDS, *telemetry.REQUEST_FIELDS) if name in line]


def test_callers_cannot_change_what_the_record_says_of_itself() -> None:
    line = fields(record(fields={"level": "x", "time": "x", "logger": "x", "message": "x", "exception": "x"}))
    assert (line["level"], line["logger"], line["message"]) == ("info", "app.requests", "hello")
    assert "exception" not in line


def test_question_and_answer_only_with_texts() -> None:
    made = record(fields={"question": QUESTION, "answer": "Rest it.", "status": 200})
    assert fields(made).keys() & {"question", "answer"} == set()
    line = fields(made, texts=True)
    assert (line["question"], line["answer"]) == (QUESTION, "Rest it.")


def test_ids_are_of_the_request_being_served_unless_the_record_has_its_own() -> None:
    token = current.set(LogContext("r1", "t1", "s1"))
    try:
        inside = capture(record())
        own = capture(record(fields={"request_id": "r2"}))
    finally:
        current.reset(token)
    lines = Lines(Redactor(), texts=False)
    assert lines.line(inside).metadata == {"request_id": "r1", "trace_id": "t1"}
    assert json.loads(lines.line(inside).text)["span_id"] == "s1"
    assert lines.line(own).metadata == {"request_id": "r2", "trace_id": "t1"}
    assert lines.line(capture(record())).metadata == {}


def test_arguments_may_change_after_the_call() -> None:
    words, given = ["before"], {"topic": "before"}
    entry = capture(record("%s", words, fields=given))
    words[0] = given["topic"] = "after"
    line = Lines(Redactor(), texts=False).line(entry).text
    assert "before" in line
    assert "after" not in line


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("made", [record("%d", "x"), record("%s", Broken()), record(Broken()), record("a", 1, 2)])
def test_a_record_whose_arguments_do_not_fit_is_a_line(made: logging.LogRecord) -> None:
    assert "do not fit" in fields(made)["message"]


def test_values_and_exceptions_without_a_text_are_lines() -> None:
    assert fields(record(fields={"topic": Broken()}))["topic"] == "Broken"

    class Worse(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    try:
        raise Worse
    except Worse:
        assert "Worse" in fields(record(exc_info=sys.exc_info()))["exception"]


def test_a_traceback_is_kept_as_text() -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        made = record(exc_info=sys.exc_info())
    entry = capture(made)
    assert entry.exception.startswith("Traceback")
    assert entry.exception.endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("number", "level"), [(5, "debug"), (10, "debug"), (25, "info"), (30, "warning"), (40, "error"), (99, "critical")]
)
def test_there_are_five_levels(number: int, level: str) -> None:
    assert fields(record(level=number))["level"] == level


@given(st.text(), st.dictionaries(st.sampled_from(telemetry.REQUEST_FIELDS), st.text() | st.floats() | st.integers()))
def test_whatever_is_logged_is_one_json_object_on_one_line(message: str, given_fields: dict[str, Any]) -> None:
    made = record(fields=given_fields)
    made.msg, made.args = message, ()
    text = Lines(Redactor(), texts=True).line(capture(made)).text
    assert len(text.splitlines()) == 1 or "\n" not in text
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("filler", ["a", "\x00", "\U0001f600", "\ud800", '"', "\\"])
def test_long_lines_are_cut_and_say_so(filler: str) -> None:
    made = record("begin %s end", filler * 3_000_000, fields=dict.fromkeys(telemetry.REQUEST_FIELDS, filler * 100_000))
    text = Lines(Redactor(texts=True), texts=True).line(capture(made)).text
    assert len(text.encode()) <= LINE_BYTES_MAX
    message = json.loads(text)["message"]
    assert message.startswith("begin ")
    assert message.endswith(" end")
    assert "characters cut" in message


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abcdef123456", f"Authorization: {MASK}"),
        ("'authorization': 'Basic dXNlcjpwYXNzd29yZA=='", f"'authorization': '{MASK}'"),
        ("[(b'x-api-key', b'abcdef'), (b'accept', b'*/*')]", f"[(b'x-api-key', b'{MASK}'), (b'accept', b'*/*')]"),
        ("GET /ask?api_key=abcdef&page=2", f"GET /ask?api_key={MASK}&page=2"),
        ("GET /ask?key=abcdef", f"GET /ask?key={MASK}"),
        ('{"token": "abcdef", "n": 1}', f'{{"token": "{MASK}", "n": 1}}'),
        ("PHAROS_MILVUS_TOKEN=root:abcdef", f"PHAROS_MILVUS_TOKEN={MASK}"),
        ("password='abcdef'", f"password='{MASK}'"),
        ("sent bearer abcdef123456 to it", f"sent bearer {MASK} to it"),
        ("http://user:pa@ss@milvus:19530/db", f"http://{MASK}@milvus:19530/db"),
        ("key sk-abcdefghijklmnop1234 is old", f"key {MASK} is old"),
    ],
)
def test_keys_and_passwords_are_masked_by_their_form(text: str, masked: str) -> None:
    assert Redactor()(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=256, prompt_tokens: 12, tokens=5",
        "partition key: topic",
        "KeyError: 'topic'",
        "http://milvus:19530/v2/vectordb and http://[::1]:8080/readyz",
        "POST /ask 200 ok 1.23 s",
        "model service http://127.0.0.1:8080 is gone",
        "ConnectError('All connection attempts failed')",
        "a keyboard, a monkey, secretly",
    ],
)
def test_what_is_harmless_stays(text: str) -> None:
    assert Redactor([KEY])(text) == text


@pytest.mark.parametrize("form", [KEY, "pass%20word%2F1", "it's\\\\mine", "root:abcdefgh", "abcdefgh"])
def test_configured_secrets_are_masked_wherever_they_stand(form: str) -> None:
    redact = Redactor([KEY, "pass word/1", "it's\\mine", "root:abcdefgh", "", "x"])
    assert redact(f"see <{form}>!") == f"see <{MASK}>!"


class Body(BaseModel):
    question: int


def validation_error(value: object) -> str:
    try:
        Body.model_validate({"question": value})
    except ValidationError as exc:
        return str(exc) + repr(exc) + repr(exc.errors())
    raise AssertionError


@pytest.mark.parametrize(
    "text",
    [
        validation_error(QUESTION),
        validation_error({"nested": QUESTION}),
        validation_error([QUESTION + " \"quoted\" 'twice'"]),
        repr({"question": QUESTION}),
        json.dumps({"question": f'{QUESTION} "really"'}),
        repr({"question": "it's " + QUESTION}),
        repr(Prompt("id", (Message("user", QUESTION),), sampling=Sampling(max_tokens=4))),
        f"too long (parameter=input_text, value={QUESTION})",
    ],
)
def test_texts_named_like_one_are_masked_unless_they_are_let_in(text: str) -> None:
    assert "knee" not in Redactor()(text)
    assert "knee" in Redactor(texts=True)(text)


def test_the_console_masks_too() -> None:
    try:
        raise ValueError(f"no such key {KEY}")
    except ValueError:
        made = record("got %s", KEY, exc_info=sys.exc_info())
    shown = ConsoleFormatter(Redactor([KEY])).format(made)
    assert shown.startswith(f"INFO app.requests: got {MASK}\nTraceback")
    assert KEY not in shown
