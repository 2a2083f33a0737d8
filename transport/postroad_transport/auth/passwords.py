"""Password hashes, and verifying them away from the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import NamedTuple

import argon2
import argon2.low_level
import bcrypt

from postroad_transport.auth import scram_keys

#: How long a password that was right is remembered, in seconds.
REMEMBER = 60.0
#: How many right passwords are remembered.
REMEMBER_ENTRIES = 10_000
#: Verifications that may wait or run at once: at about 50 ms each, more would keep clients waiting for seconds.
MAX_PENDING = 64
#: Seconds after which what a source has asked counts half; and how many sources are counted.
HALVE_EVERY = 60.0
ASKED_ENTRIES = 10_000

#: bcrypt sees this many octets of a password; the tools that make hashes cut there too.
_BCRYPT_OCTETS = 72
_MAX_ARGON2_KIB = 1024 * 1024
_MAX_ARGON2_TIME = 64
_MAX_BCRYPT_COST = 16

_ACCEPTED = "argon2id, bcrypt or SCRAM-SHA-256 (postroad htpasswd)"
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(
    r"(\$argon2id?\$v=19\$m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,8})\$)([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{16,171})"
)
_DEFAULT_ARGON2 = "$argon2id$v=19$m=65536,t=3,p=4$" + "A" * 22 + "$" + "A" * 43


class AuthUnavailableError(Exception):
    """Passwords cannot be verified just now: 454 4.7.0, try again later."""


class HashFormatError(ValueError):
    """A stored password is not in a form that is accepted; the message says why and never quotes it."""


def check_format(encoded: str) -> str:
    """Accept an argon2 (RFC 9106, PHC string) or bcrypt hash or SCRAM keys; return its parameters as a prefix.

    Raises
    ------
    HashFormatError
        Anything else: plain text, ``{SHA}``, MD5, DES, or a cost that would stall the server.
    """
    if (match := _ARGON2.fullmatch(encoded)) and _canonical(match[5]) and _canonical(match[6]):
        memory, passes, lanes = int(match[2]), int(match[3]), int(match[4])
        if lanes < 1 or passes < 1 or memory < 8 * lanes:
            raise HashFormatError("the argon2 parameters are not valid")
        if memory > _MAX_ARGON2_KIB or passes > _MAX_ARGON2_TIME:
            raise HashFormatError("the argon2 cost is too high: at most m=1048576 and t=64")
        return match[1]
    if match := _BCRYPT.fullmatch(encoded):
        if not 4 <= int(match[1]) <= _MAX_BCRYPT_COST:
            raise HashFormatError("the bcrypt cost must be from 4 to 16")
        return encoded[:7]
    if encoded.startswith("SCRAM-SHA-256$"):
        try:
            return f"SCRAM-SHA-256${scram_keys.parse(encoded).iterations}:"
        except ValueError as error:
            raise HashFormatError(str(error)) from None
    if encoded.startswith(("$argon2", "$2")):
        raise HashFormatError("the hash is damaged or of an unsupported version")
    if encoded.startswith(("SCRAM-", "$apr1$", "$1$", "{SHA}", "{SSHA}", "{MD5}", "{CRYPT}", "$5$", "$6$")):
        raise HashFormatError(f"this hash is too weak or not supported: use {_ACCEPTED}")
    raise HashFormatError(f"this is not a password hash: use {_ACCEPTED}")


def decoy(encoded: str = "") -> str:
    """Return a hash that no password matches and that costs as much to check as `encoded`."""
    encoded = encoded or _DEFAULT_ARGON2
    if match := _ARGON2.fullmatch(encoded):
        return f"{match[1]}{_filler(match[5])}${_filler(match[6])}"
    if encoded.startswith("SCRAM-SHA-256$"):
        keys = scram_keys.parse(encoded)
        return str(scram_keys.ScramKeys(keys.iterations, *(secrets.token_bytes(len(part)) for part in keys[1:])))
    return encoded[:7] + "." * 22 + secrets.token_hex(16)[:31]


def check_password(encoded: str, password: bytes) -> bool:
    """Tell whether `password` matches. Takes tens of milliseconds and releases the GIL.

    Raises
    ------
    AuthUnavailableError
        Memory ran out, or the library refuses the hash.
    """
    try:
        if encoded.startswith("SCRAM-SHA-256$"):
            return scram_keys.matches(scram_keys.parse(encoded), password)
        if encoded.startswith("$argon2"):
            kind = argon2.Type.ID if encoded.startswith("$argon2id$") else argon2.Type.I
            return argon2.low_level.verify_secret(encoded.encode("ascii"), password, kind)
        return bcrypt.checkpw(password[:_BCRYPT_OCTETS], encoded.encode("ascii"))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError, ValueError, MemoryError) as error:
        raise AuthUnavailableError("the password hash cannot be checked") from error


class OverloadedError(AuthUnavailableError):
    """Too many passwords wait to be checked, and others come first."""


class Origin(NamedTuple):
    """Who asks, as far as fairness goes."""

    source: str = ""
    """The client's address, or its network."""
    known: bool = False
    """It has logged in lately."""
    suspect: bool = False
    """It has failed lately."""


ANYBODY = Origin()


class _Job(NamedTuple):
    """A check that waits or runs."""

    number: int
    question: bytes
    origin: Origin
    encoded: str
    secret: bytes
    answer: Future[bool]

    @property
    def is_guess(self) -> bool:
        """Whether it is likely to be one more wrong password."""
        return self.origin.suspect and not self.origin.known


class PasswordVerifier:
    """Checks passwords in a few threads, joins equal questions, and remembers right answers for a while.

    What is remembered is an HMAC under a key that only this process has, over user, password and stored hash:
    a changed hash is a different question, so the memory survives a reload and never outlives a password.

    Who guesses must not keep others waiting. First come sources that have logged in lately, last those that have
    failed; among equals, who has asked least in the last minutes without being right. When too many wait, the last in
    this order is sent away. One thread is kept from guesses, so that the others wait for none.
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        max_pending: int = MAX_PENDING,
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[str, bytes], bool] = check_password,
    ) -> None:
        self._threads = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, "passwords")
        self._max_pending = max_pending
        self._clock = clock
        self._check = check
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._pending: dict[bytes, _Job] = {}
        self._waiting: list[_Job] = []
        self._running = 0
        self._guesses = 0
        self._asked: Counter[str] = Counter()
        self._halve_at = clock() + HALVE_EVERY
        self._numbers = count()
        self._good_until: dict[bytes, float] = {}

    async def verify(self, username: str, password: str, encoded: str, origin: Origin = ANYBODY) -> bool:
        """Tell whether `password` matches the stored hash of `username`.

        Raises
        ------
        AuthUnavailableError
            Too many verifications wait already, or the hash cannot be checked now.
        """
        secret = password.encode("utf-8", "surrogatepass")
        question = self._question(username.encode("utf-8", "surrogatepass"), secret, encoded)
        with self._lock:
            if self._good_until.get(question, 0.0) > self._clock():
                return True
            job = self._pending.get(question) or self._add(question, encoded, secret, origin)
        # Shielded: others may wait for the same answer when this session goes away.
        return await asyncio.shield(asyncio.wrap_future(job.answer))

    def close(self) -> None:
        """Stop the threads; what has not begun is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for job in list(self._waiting):
                self._send_away(job)

    def _question(self, username: bytes, password: bytes, encoded: str) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (username, password, encoded.encode("ascii")):
            mac.update(len(part).to_bytes(8, "big"))
            mac.update(part)
        return mac.digest()

    # The lock is held in all of these.

    def _add(self, question: bytes, encoded: str, secret: bytes, origin: Origin) -> _Job:
        self._count(origin.source)
        job = _Job(next(self._numbers), question, origin, encoded, secret, Future())
        if len(self._pending) >= self._max_pending:
            last = max([*self._waiting, job], key=self._turn)
            if last is job:
                raise OverloadedError("too many logins are being checked")
            self._send_away(last)
        self._pending[question] = job
        self._waiting.append(job)
        self._start()
        return job

    def _count(self, source: str) -> None:
        now = self._clock()
        if now >= self._halve_at or len(self._asked) >= ASKED_ENTRIES:
            self._halve_at = now + HALVE_EVERY
            self._asked = Counter({source: times // 2 for source, times in self._asked.items() if times > 1})
        self._asked[source] += 1

    def _turn(self, job: _Job) -> tuple[int, int, int]:
        """Return what the smallest of is next. A source's other questions, since then, count as well."""
        return job.origin.suspect - job.origin.known, self._asked[job.origin.source], job.number

    def _start(self) -> None:
        while self._waiting and self._running < self._threads:
            job = min(self._waiting, key=self._turn)
            if job.is_guess:
                if self._guesses >= max(1, self._threads - 1):
                    return
                self._guesses += 1
            self._pool.submit(self._run, job)
            self._waiting.remove(job)
            self._running += 1

    def _send_away(self, job: _Job) -> None:
        self._waiting.remove(job)
        del self._pending[job.question]
        job.answer.set_exception(OverloadedError("too many logins are being checked"))

    def _remember(self, question: bytes) -> None:
        now = self._clock()
        if len(self._good_until) >= REMEMBER_ENTRIES:
            self._good_until = {question: until for question, until in self._good_until.items() if until > now}
            while len(self._good_until) >= REMEMBER_ENTRIES:
                del self._good_until[next(iter(self._good_until))]
        self._good_until[question] = now + REMEMBER

    # In a thread of the pool.

    def _run(self, job: _Job) -> None:
        good, failure = False, None
        try:
            good = self._check(job.encoded, job.secret)
        except Exception as error:
            failure = error
        with self._lock:
            self._running -= 1
            self._guesses -= job.is_guess
            del self._pending[job.question]
            if good:
                self._remember(job.question)
                self._asked[job.origin.source] -= 1
            with contextlib.suppress(RuntimeError):  # the pool is shut down
                self._start()
        if failure is not None:
            job.answer.set_exception(failure)
        else:
            job.answer.set_result(good)


def _filler(text: str) -> str:
    # The last digit is zero because base64 leaves unused bits there.
    return secrets.token_hex(len(text))[: len(text) - 1] + "A"


def _canonical(text: str) -> bool:
    try:
        return base64.b64encode(base64.b64decode(text + "=" * (-len(text) % 4))).rstrip(b"=") == text.encode("ascii")
    except binascii.Error:
        return False
