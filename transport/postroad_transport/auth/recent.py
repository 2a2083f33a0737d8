"""A short memory of answers about credentials, without the credentials."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Recent(Generic[Answer]):
    """Remembers answers for a while, the newest `size` of them.

    What is kept of a question is an HMAC under a key that only this object has.
    """

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._answers: OrderedDict[bytes, tuple[float, Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, *question: str) -> Answer | None:
        """Return what is remembered, None where nothing is."""
        digest = self._digest(question)
        found = self._answers.get(digest)
        if found is None:
            return None
        if found[0] <= self._clock():
            del self._answers[digest]
            return None
        return found[1]

    def put(self, answer: Answer, seconds: float, *question: str) -> None:
        """Remember `answer` for so many seconds."""
        digest = self._digest(question)
        self._answers[digest] = self._clock() + seconds, answer
        self._answers.move_to_end(digest)
        while len(self._answers) > self._size:
            self._answers.popitem(last=False)

    def _digest(self, question: tuple[str, ...]) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in question:
            octets = part.encode("utf-8", "surrogatepass")
            mac.update(len(octets).to_bytes(8, "big"))
            mac.update(octets)
        return mac.digest()
