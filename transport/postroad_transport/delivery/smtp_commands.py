"""What an envelope becomes in the words of one peer: MAIL, RCPT, and what it cannot be told. Pure.

What the peer does not offer (RFC 6152, 6531, 3030, 3461):

- 8BITMIME, and BINARYMIME (with CHUNKING): what the peer cannot take is converted (:mod:`.transfer_encoding`), else
  fails with 554 5.6.3. A message that holds no 8-bit bytes goes as it is, without BODY.
- SMTPUTF8: where every address and the header are ASCII the keyword is dropped, and U-label domains become
  A-labels. Else 553 5.6.7 (an address; a recipient's concerns only that recipient) or 554 5.6.9 (the header).
- DSN: RET, ENVID, NOTIFY and ORCPT are dropped.
- MT-PRIORITY (RFC 6710): the priority is dropped.

To a server that this one has logged in at, MAIL says who submitted the message, or ``AUTH=<>`` (RFC 4954 section 5).
"""

from __future__ import annotations

from collections.abc import Mapping

from postroad_transport.message import Body, Content, Envelope, Recipient
from postroad_transport.routing.table import ascii_domain

Extensions = Mapping[str, str]
"""EHLO keywords in upper case, with their parameters."""

_NOT_IN_A_COMMAND = frozenset("\r\n\0")


def speaks_utf8(envelope: Envelope, extensions: Extensions) -> bool:
    """Tell whether this transaction is an SMTPUTF8 one (RFC 6531 section 3.4)."""
    return envelope.smtputf8 and "SMTPUTF8" in extensions


def uses_binary(envelope: Envelope) -> bool:
    """Tell whether the message goes by BDAT (RFC 3030)."""
    return envelope.body is Body.BINARY_MIME


def converted_body(envelope: Envelope, content: Content, extensions: Extensions) -> Body | None:
    """Return what the content has to be made to fit for this peer, None where it goes as it is."""
    if envelope.body is Body.BINARY_MIME:
        if "BINARYMIME" in extensions and "CHUNKING" in extensions:
            return None
        return Body.EIGHT_BIT_MIME if "8BITMIME" in extensions else Body.SEVEN_BIT
    return None if "8BITMIME" in extensions or _is_ascii(content) else Body.SEVEN_BIT


def message_refusal(envelope: Envelope, size: int, content: Content, extensions: Extensions) -> str:
    """Return the reply with which the whole message fails at this peer, or an empty string.

    It has been made to fit :func:`converted_body`.

    Parameters
    ----------
    size
        Bytes of `content`.
    """
    limit = extensions.get("SIZE", "")
    if limit.isdecimal() and 0 < int(limit) < size:
        return f"552 5.3.4 message of {size} bytes exceeds the peer's limit of {limit}"
    utf8 = speaks_utf8(envelope, extensions)
    if path(envelope.sender, utf8=utf8) is None:
        if not utf8 and not envelope.sender.isascii():
            return "553 5.6.7 the peer does not take the sender's non-ASCII address"
        return "553 5.1.7 the sender's address cannot be put in a command"
    if envelope.smtputf8 and not utf8 and not _is_ascii([_header(content)]):
        return "554 5.6.9 the peer does not take a non-ASCII header"
    return ""


def recipient_refusal(recipient: Recipient, *, utf8: bool) -> str:
    """Return the reply with which this one recipient fails at this peer, or an empty string.

    `utf8` is what :func:`speaks_utf8` says.
    """
    if path(recipient.address, utf8=utf8) is not None:
        return ""
    if not utf8 and not recipient.address.isascii():
        return "553 5.6.7 the peer does not take the recipient's non-ASCII address"
    return "553 5.1.3 the recipient's address cannot be put in a command"


def mail_command(envelope: Envelope, size: int, extensions: Extensions, *, tells_submitter: bool = False) -> bytes:
    """Return MAIL with the parameters that the peer offers; :func:`message_refusal` must be empty.

    `tells_submitter` is for a session that has logged in with AUTH.
    """
    utf8 = speaks_utf8(envelope, extensions)
    line = f"MAIL FROM:<{path(envelope.sender, utf8=utf8)}>"
    if "SIZE" in extensions:
        line += f" SIZE={size}"
    if envelope.body is Body.BINARY_MIME or (envelope.body is Body.EIGHT_BIT_MIME and "8BITMIME" in extensions):
        line += f" BODY={envelope.body.value}"
    if utf8:
        line += " SMTPUTF8"
    if envelope.require_tls and "REQUIRETLS" in extensions:
        line += " REQUIRETLS"
    if "DSN" in extensions:
        line += _parameter("RET", envelope.ret) + _parameter("ENVID", envelope.envid)
    if envelope.priority and "MT-PRIORITY" in extensions:
        line += f" MT-PRIORITY={envelope.priority}"
    if tells_submitter:
        line += _parameter("AUTH", envelope.submitter) or " AUTH=<>"
    return line.encode() + b"\r\n"


def rcpt_command(recipient: Recipient, extensions: Extensions, *, utf8: bool) -> bytes:
    """Return RCPT with the parameters that the peer offers; :func:`recipient_refusal` must be empty."""
    line = f"RCPT TO:<{path(recipient.address, utf8=utf8)}>"
    if "DSN" in extensions and (recipient.notify or recipient.orcpt):
        line += _parameter("NOTIFY", ",".join(recipient.notify)) + _parameter("ORCPT", recipient.orcpt)
    return line.encode() + b"\r\n"


def path(address: str, *, utf8: bool) -> str | None:
    """Return `address` as it stands between angle brackets; None where it cannot."""
    if not address.isprintable() and not _NOT_IN_A_COMMAND.isdisjoint(address):
        return None
    if utf8 or address.isascii():
        return address
    local, _, domain = address.rpartition("@")
    name = ascii_domain(domain)
    return f"{local}@{name}" if name and local.isascii() else None


def _parameter(keyword: str, value: str) -> str:
    # xtext and the fixed words hold neither blanks nor controls; anything else would be a second parameter.
    return f" {keyword}={value}" if value and value.isascii() and value.isprintable() and " " not in value else ""


def _is_ascii(content: Content) -> bool:
    return all(bytes(chunk).isascii() for chunk in content)


def _header(content: Content) -> bytes:
    head = b""
    for chunk in content:
        head += bytes(chunk)
        end = head.find(b"\r\n\r\n")
        if end != -1:
            return head[:end]
    return head
