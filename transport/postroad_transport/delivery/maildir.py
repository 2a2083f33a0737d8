"""Delivery to Maildirs (https://cr.yp.to/proto/maildir.html).

The rules
1. A message is written to ``tmp``, forced to disk, renamed into ``new``, and the directory is forced to disk:
   DELIVERED means that it survives a power failure.
2. The file's name follows from the message and the recipient alone, so that a delivery repeated after a crash
   replaces the first instead of adding to it (as long as no reader has moved it).
3. ``Return-Path`` and ``Delivered-To`` are put in front (RFC 5321 section 4.4); lines end in LF, as readers expect.
4. Nothing a sender chooses can leave the configured directory.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2s
from pathlib import Path

from postroad_transport.delivery.hop import Hop, Outcome, Result
from postroad_transport.message import Content, Envelope, Recipient

_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+=-")
_MAX_NAME = 200
"""Characters of an encoded part of a path; what is longer ends in a digest (NAME_MAX is 255)."""

_MAX_KNOWN = 10_000
"""Maildirs remembered as made."""

_DELIVERED = Outcome(Result.DELIVERED, "250 2.0.0 Stored")
_FULL = frozenset({errno.ENOSPC, errno.EFBIG})


def encode_name(text: str) -> str:
    """Return `text` as one safe path component: no separator, no leading dot, never empty or too long.

    Characters other than ``A-Z a-z 0-9 . _ + = -`` become ``%XX`` of their UTF-8; so do a leading dot and,
    to keep the encoding unambiguous, ``%`` itself.
    """
    encoded = "".join(
        c if c in _SAFE else "".join(f"%{b:02X}" for b in c.encode("utf-8", "surrogatepass")) for c in text
    )
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) > _MAX_NAME:
        digest = blake2s(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        encoded = f"{encoded[: _MAX_NAME - 40]}%{digest}"
    return encoded or "%"


def mailbox_path(template: str, address: str) -> str:
    """Return the Maildir of `address`: ``{local}`` and ``{domain}`` of `template` filled in, in lower case."""
    local, _, domain = address.rpartition("@")
    # One pass, so that a local part such as "{domain}" stays what it is.
    parts = template.split("{local}")
    domain = encode_name(domain.lower())
    return encode_name(local.lower()).join(part.replace("{domain}", domain) for part in parts)


def file_name(envelope: Envelope, recipient: Recipient, size: int, host: str) -> str:
    """Return the unique name of a message in a Maildir: the same for every attempt."""
    seconds, fraction = divmod(envelope.received_at, 1)
    who = blake2s(recipient.address.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    safe_host = host.replace("/", "\\057").replace(":", "\\072")
    return f"{int(seconds)}.M{int(fraction * 1_000_000):06d}R{who}Q{encode_name(envelope.id)}.{safe_host},S={size}"


class MaildirHop(Hop):
    """Stores messages in Maildirs, in a pool of threads.

    Parameters
    ----------
    path
        Template of the Maildirs, relative to `state_directory` unless absolute.
    state_directory
        The tier's state directory.
    host
        Name in the file names; the machine's own by default.
    threads
        Writers at once. Their syncs are grouped by the file system's journal.
    """

    def __init__(self, path: str, state_directory: Path, *, host: str = "", threads: int = 16) -> None:
        self._root = state_directory
        self._template = path
        self._host = host or socket.gethostname()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="maildir")
        self._known: set[str] = set()

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> Sequence[Outcome]:
        """Store once for each recipient. A full disk or any other failure defers."""
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self._deliver, envelope, recipients, content
        )

    async def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False)

    def _deliver(self, envelope: Envelope, recipients: Sequence[Recipient], content: Content) -> list[Outcome]:
        body = b"".join(content).replace(b"\r\n", b"\n")
        return [self._attempt(envelope, recipient, body) for recipient in recipients]

    def _attempt(self, envelope: Envelope, recipient: Recipient, body: bytes) -> Outcome:
        maildir = str(self._root / mailbox_path(self._template, recipient.address))
        try:
            self._store(maildir, envelope, recipient, body)
        except OSError as error:
            # Whatever happened to the Maildir, the next attempt looks anew.
            self._known.discard(maildir)
            return _deferred(error)
        return _DELIVERED

    def _store(self, maildir: str, envelope: Envelope, recipient: Recipient, body: bytes) -> None:
        head = f"Return-Path: <{_line(envelope.sender)}>\nDelivered-To: {_line(recipient.address)}\n".encode(
            "utf-8", "surrogateescape"
        )
        name = file_name(envelope, recipient, len(head) + len(body), self._host)
        temporary = f"{maildir}/tmp/{name}"  # noqa: S108 - not the system's /tmp
        new = f"{maildir}/new"
        try:
            descriptor = self._create(maildir, temporary)
        except FileNotFoundError:
            # The Maildir was removed since we saw it.
            self._known.discard(maildir)
            descriptor = self._create(maildir, temporary)
        try:
            try:
                _write(descriptor, head, body)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, f"{new}/{name}")
        except OSError:
            _discard(temporary)
            raise
        _sync_directory(new)

    def _create(self, maildir: str, temporary: str) -> int:
        if maildir not in self._known:
            _make_maildir(maildir)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known.add(maildir)
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _write(descriptor: int, *parts: bytes) -> None:
    """Write it all; one system call unless the kernel takes less."""
    pending = [memoryview(part) for part in parts if part]
    while pending:
        written = os.writev(descriptor, pending)
        while pending and written >= len(pending[0]):
            written -= len(pending.pop(0))
        if pending:
            pending[0] = pending[0][written:]


def _make_maildir(maildir: str) -> None:
    """Make a Maildir and what is above it, durably, readable by its owner only."""
    for folder in ("tmp", "cur", "new"):
        _make_directory(Path(maildir, folder))


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(str(path.parent))


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _deferred(error: OSError) -> Outcome:
    """Return what a failure to store means. No outcome without a remote: see ``destination_down``."""
    if error.errno in _FULL:
        return Outcome(Result.DEFERRED, "452 4.3.1 The mail store is full")
    if error.errno == errno.EDQUOT:
        return Outcome(Result.DEFERRED, "452 4.2.2 The mailbox is full", "localhost")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return Outcome(Result.DEFERRED, f"451 4.3.0 Cannot store the message: {reason}", "localhost")
