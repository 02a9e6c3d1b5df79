"""What an API key may use: requests and tokens, each from a bucket that fills at a steady rate.

The token bucket (RFC 2697's meter is one) lets a caller save up for a burst of one minute, and no more.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.errors import QuotaExceeded, Unauthorized


class ApiKey(BaseModel):
    """One entry of PHAROS_API_KEYS. No limit means no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: SecretStr = Field(min_length=8)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)


class _Bucket:
    """Holds at most what flows in within a minute."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float]) -> None:
        self._capacity = per_minute
        self._content = float(per_minute or 0)
        self._clock = clock
        self._filled = clock()

    def take(self, amount: float) -> float:
        """Take `amount` if the bucket holds it, or, when it never could, if it is full. Seconds until it would: 0 when
        it has been taken."""
        if self._capacity is None:
            return 0.0
        now = self._clock()
        per_second = self._capacity / 60
        self._content = min(self._capacity, self._content + (now - self._filled) * per_second)
        self._filled = now
        missing = min(amount, self._capacity) - self._content
        if missing > 0:
            return missing / per_second
        self._content -= amount
        return 0.0

    def give_back(self, amount: float) -> None:
        """Return what was taken and not used; a negative amount is taken after all."""
        if self._capacity is not None:
            self._content = min(self._capacity, self._content + amount)


class Quota:
    """The budget of one key."""

    def __init__(self, name: str, key: ApiKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._requests = _Bucket(key.requests_per_minute, clock)
        self._tokens = _Bucket(key.tokens_per_minute, clock)

    def use_request(self) -> None:
        """Raises QuotaExceeded."""
        _refuse_for(self._requests.take(1), f"The key {self.name!r} has made all its requests of this minute.")

    def reserve_tokens(self, tokens: int) -> Reservation:
        """Take what a prompt may cost at most. Raises QuotaExceeded."""
        _refuse_for(self._tokens.take(tokens), f"The key {self.name!r} has used its tokens of this minute.")
        return Reservation(self._tokens, tokens)

    def use_tokens(self, tokens: int) -> None:
        """Charge what has been used already."""
        self._tokens.give_back(-tokens)


@dataclass(slots=True)
class Reservation:
    """Tokens taken in advance."""

    _bucket: _Bucket
    _tokens: int
    _settled: bool = False

    def settle(self, used: int) -> None:
        """Give back what was not used. Only the first call counts."""
        if not self._settled:
            self._settled = True
            self._bucket.give_back(self._tokens - used)


class Keyring:
    """The quotas by key. Without any key everybody is let in, without limits."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._keys = [(key.key.get_secret_value().encode(), Quota(name, key)) for name, key in keys.items()]

    def quota_of(self, authorization: bytes) -> Quota | None:
        """The quota of the key in an Authorization header. Raises Unauthorized."""
        if not self._keys:
            return None
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            for key, quota in self._keys:
                # In constant time, so that a key cannot be guessed letter by letter.
                if hmac.compare_digest(key, given.strip()):
                    return quota
        raise Unauthorized("Send an API key that is known here, in the header 'Authorization: Bearer KEY'.")


def _refuse_for(seconds: float, why: str) -> None:
    if seconds > 0:
        raise QuotaExceeded(f"{why} There is room again in {math.ceil(seconds)} s.", retry_after_seconds=seconds)
