"""ESMTP parameters of MAIL and RCPT: which are known, what values they take, how they are kept.

SIZE (RFC 1870), BODY (RFC 6152, 3030), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY and ORCPT (RFC 3461), AUTH
(RFC 4954 section 5), MT-PRIORITY (RFC 6710). An unknown one, or one of an extension that is turned off, gets
555 5.5.4 (RFC 5321 section 4.1.1.11); a bad value 501 5.5.4. Values are kept as sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from postroad_transport.message import Body
from postroad_transport.policy.reply import Reply

_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_PRIORITIES = frozenset(str(number) for number in range(-9, 10))  # RFC 6710 section 4
_MAX_ENVID = 100  # RFC 3461 section 4.4
_MAX_ORCPT = 500  # RFC 3461 section 4.2
_MAX_SUBMITTER = 500  # RFC 4954 section 5


class MailParameters(NamedTuple):
    """The parameters of MAIL. ``size`` is in bytes; ``submitter`` is AUTH=, empty for ``<>``."""

    size: int | None = None
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    submitter: str = ""
    priority: int = 0


class RecipientParameters(NamedTuple):
    """The parameters of RCPT."""

    notify: tuple[str, ...] = ()
    orcpt: str = ""


NO_MAIL_PARAMETERS = MailParameters()
NO_RECIPIENT_PARAMETERS = RecipientParameters()


class _BadValueError(Exception):
    pass


def _unknown(name: str) -> Reply:
    return Reply(555, "5.5.4", f"{name[:32]} parameter not recognized or not implemented")


def _xtext(value: str | None, limit: int) -> str:
    """Check xtext (RFC 3461 section 4): printable ASCII without ``+`` and ``=``, except in ``+XX``."""
    if not value or len(value) > limit or not value.isascii() or not value.isprintable() or "=" in value:
        raise _BadValueError
    for escaped in value.split("+")[1:]:
        if len(escaped) < 2 or not set(escaped[:2]) <= set("0123456789ABCDEF"):
            raise _BadValueError
    return value


def mail_parameters(given: Mapping[str, str | None], offered: frozenset[str]) -> MailParameters | Reply:
    """Return the meaning of `given`, or the reply that refuses it. `offered`: EHLO keywords that are on."""
    size, body, smtputf8, ret, envid, submitter, priority = NO_MAIL_PARAMETERS
    for name, value in given.items():
        try:
            if name == "SIZE" and "SIZE" in offered:
                size = _size(value)
            elif name == "BODY" and "8BITMIME" in offered:
                body = _body(value, offered)
            elif name == "SMTPUTF8" and "SMTPUTF8" in offered:
                smtputf8 = _one_of((value or "").upper(), {""}) == ""
            elif name == "RET" and "DSN" in offered:
                ret = _one_of((value or "").upper(), {"FULL", "HDRS"})
            elif name == "ENVID" and "DSN" in offered:
                envid = _xtext(value, _MAX_ENVID)
            elif name == "AUTH":
                # Nothing is granted by it; whether it is passed on depends on who says it.
                submitter = "" if value == "<>" else _xtext(value, _MAX_SUBMITTER)
            elif name == "MT-PRIORITY":
                priority = int(_one_of(value or "", _PRIORITIES))
            else:
                return _unknown(name)
        except _BadValueError:
            return Reply(501, "5.5.4", f"Bad value of the {name} parameter")
    return MailParameters(size, body, smtputf8, ret, envid, submitter, priority)


def _size(value: str | None) -> int:
    if not value or not (value.isascii() and value.isdigit()) or len(value) > 20:
        raise _BadValueError
    return int(value)


def _one_of(value: str, allowed: Collection[str]) -> str:
    if value not in allowed:
        raise _BadValueError
    return value


def _body(value: str | None, offered: frozenset[str]) -> Body:
    try:
        body = Body((value or "").upper())
    except ValueError:
        raise _BadValueError from None
    if body is Body.BINARY_MIME and not {"BINARYMIME", "CHUNKING"} <= offered:
        raise _BadValueError
    return body


def recipient_parameters(given: Mapping[str, str | None], offered: frozenset[str]) -> RecipientParameters | Reply:
    """Return the meaning of `given`, or the reply that refuses it."""
    notify: tuple[str, ...] = ()
    orcpt = ""
    for name, value in given.items():
        try:
            if name == "NOTIFY" and "DSN" in offered:
                notify = _notify(value)
            elif name == "ORCPT" and "DSN" in offered:
                orcpt = _orcpt(value or "")
            else:
                return _unknown(name)
        except _BadValueError:
            return Reply(501, "5.5.4", f"Bad value of the {name} parameter")
    return RecipientParameters(notify, orcpt)


def _orcpt(value: str) -> str:
    kind, _, address = value.partition(";")
    if not kind or len(value) > _MAX_ORCPT:
        raise _BadValueError
    # RFC 6533 section 3 lets a utf-8 address be sent as it is.
    if kind.lower() != "utf-8" or address.isascii():
        _xtext(address, _MAX_ORCPT)
    return value


def _notify(value: str | None) -> tuple[str, ...]:
    words = tuple((value or "").upper().split(","))
    if words == ("NEVER",) or (_NOTIFY.issuperset(words) and len(set(words)) == len(words)):
        return words
    raise _BadValueError
