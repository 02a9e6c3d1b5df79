"""What must not be in a log, taken out of it: keys, passwords, and the texts of users.

The rule is that no code logs them; this is the net under it, for the messages of exceptions and of libraries. It masks
the secrets that this process was configured with, what looks like a key by its form or by its name, and, unless texts
are let in, the values that are named like a text in the repr of a dict, a dataclass or a validation error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from urllib.parse import quote

MASK = "***"
TEXT_MASK = "'…'"

SECRET_CHARS_MIN = 6
"""A shorter one is found in innocent words; the settings refuse API keys of less than 8."""

SHORT_CHARS = 64
SHORT_TEXTS = 2_048
"""Results that are kept of texts that short."""

_STRING = r"""(?:b?"(?:[^"\\]|\\[\s\S]?)*"?|b?'(?:[^'\\]|\\[\s\S]?)*'?)"""
"""A string literal of Python or JSON; one that was cut ends with the text."""

# What each pattern needs in a text, in lower case: looking for these first makes the common line cheap.
_SECRET_HINTS = (
    "key",
    "token",
    "secret",
    "passw",
    "authoriz",
    "bearer",
    "://",
    "sk-",
    "hf_",
    "glc_",
    "glsa_",
    "cookie",
)
_SECRETS = (
    # user:password@ in a URL; everything up to the last @ before the path
    (re.compile(r"([a-z][a-z0-9+.-]{0,20}://)[^\s/'\"?#]*@", re.IGNORECASE), rf"\1{MASK}@"),
    # a header or a variable by its name: key=…, "token": "…", (b'x-api-key', b'…'), PASSWORD=…
    (
        re.compile(
            r"""((?:api[_-]?key|x-api-key|authorization|cookie|token|secret|passw(?:or)?d|\bkey(?=\s*=|["']))"""
            r"""["']?\s*(?:[=:]|,\s*(?=b?["']))\s*(?:b?["'])?)((?:bearer|basic|digest)\s+)?[^\s"',;&)}\]]+""",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b(bearer)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    # what some providers' keys begin with
    (re.compile(r"\b(?:sk-|hf_|glc_|glsa_|ghp_)[A-Za-z0-9_+/=-]{16,}"), MASK),
)

_TEXT_NAMES = "question|prompt|text|texts|content|query|passage|passages|heading|title|answer|messages|history|body"
_TEXT_HINTS = (*_TEXT_NAMES.split("|"), "input", "value=")
_TEXTS = (
    # pydantic: input_value=…, input_type=…; FastAPI: 'input': {…}; vLLM: parameter=…, value=…
    (re.compile(r"(input_value=).*?(?=, input_type=|$)", re.MULTILINE), rf"\1{TEXT_MASK}"),
    (re.compile(rf"""(["']input["']:\s*)(?:{_STRING}|[\[{{(].*)"""), rf"\1{TEXT_MASK}"),
    (re.compile(r"(\(?parameter=\w+, value=).*"), rf"\1{TEXT_MASK})"),
    (re.compile(rf"""(\b(?:{_TEXT_NAMES})["']?\s*[:=]\s*[\[(]?){_STRING}""", re.IGNORECASE), rf"\1{TEXT_MASK}"),
)


class Redactor:
    """Masks `secrets` and what looks like one; texts as well unless `texts`. Thread-safe."""

    def __init__(self, secrets: Collection[str] = (), *, texts: bool = False) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        self._secrets = sorted(forms, key=len, reverse=True)
        self._texts = texts
        # Routes, outcomes, topics: the same few, again and again.
        self._short = lru_cache(SHORT_TEXTS)(self._redacted)

    def __call__(self, text: str) -> str:
        return self._short(text) if len(text) <= SHORT_CHARS else self._redacted(text)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        lower = text.lower()
        if any(hint in lower for hint in _SECRET_HINTS):
            for pattern, mask in _SECRETS:
                text = pattern.sub(mask, text)
        if not self._texts and any(hint in lower for hint in _TEXT_HINTS):
            for pattern, mask in _TEXTS:
                text = pattern.sub(mask, text)
        return text


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may be written: as it is, in a URL, in a repr; and, of user:password, the password alone."""
    for part in {secret, secret.partition(":")[2]}:
        if len(part) >= SECRET_CHARS_MIN and (part == secret or len(part) >= SECRET_CHARS_MIN + 2):
            yield from (part, quote(part, safe=""), repr(part)[1:-1])
