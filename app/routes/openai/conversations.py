"""A chat completion's body as the domain's values."""

from __future__ import annotations

from collections.abc import Sequence

from app.chatting import ChatRequest
from app.errors import InvalidRequest
from app.routes.openai.bodies import ChatBody, ChatMessage, Part, refuse_unsupported
from app.settings import Settings
from app.terms import Terms
from contracts.types import Message, Role, Sampling

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def chat_request(body: ChatBody, request_id: str, terms: Terms, settings: Settings) -> ChatRequest:
    """`body`, within the limits that are settings. Raises InvalidRequest."""
    refuse_unsupported(body)
    messages = tuple(_message(i, message) for i, message in enumerate(body.messages))
    return ChatRequest(request_id, body.model, messages, _sampling(body, settings), terms)


def _sampling(body: ChatBody, settings: Settings) -> Sampling:
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = getattr(body, name)
    if body.max_tokens not in (None, max_tokens):
        raise InvalidRequest(
            "max_tokens: is the older name of max_completion_tokens; give one of them.", param="max_tokens"
        )
    if max_tokens is not None and max_tokens > settings.max_tokens_max:
        raise InvalidRequest(f"{name}: is {max_tokens:,}; at most {settings.max_tokens_max:,} is allowed.", param=name)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if "" in stop:
        raise InvalidRequest("stop: an empty text is everywhere; leave it out.", param="stop")
    return Sampling(
        max_tokens=max_tokens or settings.max_tokens,
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=stop,
        seed=body.seed,
    )


def _message(index: int, message: ChatMessage) -> Message:
    place = f"messages[{index}]"
    role = _ROLES.get(message.role)
    if role is None:
        raise _refused(f"{place}.role", f"{message.role!r} is not supported; use system, developer, user or assistant.")
    if message.tool_calls:
        raise _refused(f"{place}.tool_calls", "tools are not supported; leave such messages out.")
    match message.content:
        case str(text):
            return Message(role, text)
        case None:
            raise _refused(f"{place}.content", "is missing; send text.")
        case parts:
            return Message(role, _joined(f"{place}.content", parts))


def _joined(place: str, parts: Sequence[Part]) -> str:
    for i, part in enumerate(parts):
        if part.type != "text" or part.text is None:
            raise _refused(f"{place}[{i}]", f"parts of the type {part.type!r} are not supported; send text.")
    # As vLLM's own server joins them.
    return "\n".join(part.text or "" for part in parts)


def _refused(place: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {why}", param=place)
