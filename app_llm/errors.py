"""What the model service answers when it cannot do what was asked."""

from __future__ import annotations

from contracts.problems import ProblemError
from contracts.types import PromptProblem


class NotReady(ProblemError):
    status, code, title = 503, "not_ready", "The models are still loading"


class NoTokenizer(ProblemError):
    status, code, title = 404, "no_tokenizer", "This model has no tokenizer file"


class NoReranker(ProblemError):
    status, code, title = 404, "no_reranker", "This model service has no reranker"


class PromptRefused(Exception):
    """One prompt that cannot run; the rest of its batch can."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = PromptProblem(status, code, detail)


class AllRefused(ProblemError):
    """No prompt of the batch can run; the answer has the status of the first one's reason."""

    def __init__(self, status: int, detail: str, refused: list[dict[str, object]]) -> None:
        super().__init__(detail, refused=refused)
        self.status = status  # type: ignore[misc]  # the one error whose status is its instance's

    code, title = "prompts_refused", "No prompt of the batch can run"


def too_long(tokens: int, context_tokens: int) -> PromptRefused:
    """The refusal of a prompt that leaves no room for a single token of the answer."""
    over = tokens + 1 - context_tokens
    return PromptRefused(
        413,
        "prompt_too_long",
        f"The prompt has {tokens} tokens; the context window of {context_tokens} leaves room for "
        f"{context_tokens - 1}. Shorten it by at least {over}.",
    )
