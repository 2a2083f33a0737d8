"""Mailboxes, paths and parameters of MAIL and RCPT (RFC 5321 4.1.2 and 4.1.3, RFC 6531), on bytes."""

from __future__ import annotations

from typing import NamedTuple


class AddressSyntaxError(ValueError):
    """The argument does not follow the grammar; the message is one line fit for a 501 reply."""


class Mailbox(NamedTuple):
    """A mailbox. ``domain`` is lower-case; ``[...]`` for an address literal; empty only for ``<postmaster>``."""

    local: str
    domain: str

    @property
    def address(self) -> str:
        """``local@domain``, or ``local`` alone where there is no domain."""
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def ascii_domain(self) -> str:
        """The domain with U-labels turned into A-labels (RFC 5890)."""
        raise NotImplementedError


def parse_reverse_path(argument: bytes, *, smtputf8: bool) -> tuple[Mailbox | None, bytes]:
    """Parse what follows ``MAIL FROM:``; None is the null reverse-path; the rest holds the parameters."""
    raise NotImplementedError


def parse_forward_path(argument: bytes, *, smtputf8: bool) -> tuple[Mailbox, bytes]:
    """Parse what follows ``RCPT TO:``; the rest holds the parameters."""
    raise NotImplementedError


def parse_parameters(rest: bytes) -> dict[str, str | None]:
    """Parse esmtp-parameters: keywords upper-case, values as sent."""
    raise NotImplementedError
