"""Delivery status notifications (RFC 3461, RFC 3464, RFC 6533). Pure: identifiers and times are arguments.

A notice has three parts: text for people, the status for programs, and the original message or its headers.

The rules
1. Nobody is told about a message whose sender is null: so notices about notices cannot arise.
2. ``NOTIFY=NEVER`` is silence; without NOTIFY the sender hears of failures and delays.
3. The whole message goes back only after a failure and only if ``RET=FULL`` asked for it; else its headers do.
4. Header fields are written here, one line each with control characters taken out, rather than by the
   ``email`` package: its structured fields decode encoded-words in a value, and what comes out may hold line
   ends that a remote server chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from enum import StrEnum

from postroad_transport.message import Body, Content, Envelope, Recipient, content_size

MAX_RETURNED = 10 * 1024 * 1024
"""Bytes of an original above which only its headers go back, whatever RET says."""

MAX_RETURNED_HEADERS = 128 * 1024

_MAX_VALUE = 900
"""Characters of one field's value: with its name it stays below 998 (RFC 5322 section 2.1.1)."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_UNITEXT = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_STATUS = re.compile(r"\d{3}[ -]([245])\.(\d{1,3})\.(\d{1,3})(?:\s|$)")


class NoticeKind(StrEnum):
    """What a notice tells; the values are the ``kind`` label of ``postroad_notices``."""

    FAILURE = "failure"
    DELAY = "delay"
    SUCCESS = "success"
    RELAYED = "relayed"
    """Handed to a server that will not tell more (RFC 3461 section 5.2.2)."""


_ACTIONS = {
    NoticeKind.FAILURE: "failed",
    NoticeKind.DELAY: "delayed",
    NoticeKind.SUCCESS: "delivered",
    NoticeKind.RELAYED: "relayed",
}
_SUBJECTS = {
    NoticeKind.FAILURE: "Undelivered mail returned to sender",
    NoticeKind.DELAY: "Delayed mail (still being tried)",
    NoticeKind.SUCCESS: "Successful mail delivery",
    NoticeKind.RELAYED: "Mail relayed (no further notices)",
}
_TEXTS = {
    NoticeKind.FAILURE: "Your message could not be delivered to the recipients below. It will not be tried again.",
    NoticeKind.DELAY: "Your message is not delivered yet to the recipients below. You need not send it again:\n"
    "delivery is still being tried.",
    NoticeKind.SUCCESS: "Your message was delivered to the recipients below.",
    NoticeKind.RELAYED: "Your message was handed to the next mail server for the recipients below. That server does\n"
    "not confirm delivery, so you will get no further notice.",
}
_WANTED = {
    NoticeKind.FAILURE: "FAILURE",
    NoticeKind.DELAY: "DELAY",
    NoticeKind.SUCCESS: "SUCCESS",
    NoticeKind.RELAYED: "SUCCESS",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a notice says of one recipient. ``status`` empty: taken from `reply`."""

    recipient: Recipient
    reply: str
    remote: str = ""
    status: str = ""


def wanted(recipient: Recipient, kind: NoticeKind) -> bool:
    """Return whether the sender asked for, or by default gets, this kind of notice (RFC 3461 section 4.1)."""
    if not recipient.notify:
        return kind in (NoticeKind.FAILURE, NoticeKind.DELAY)
    return _WANTED[kind] in recipient.notify and "NEVER" not in recipient.notify


def compose(
    kind: NoticeKind,
    envelope: Envelope,
    reports: Sequence[Report],
    original: Content,
    *,
    notice_id: str,
    now: float,
    hostname: str,
    postmaster: str,
    retry_until: float | None = None,
) -> tuple[Envelope, list[bytes]] | None:
    """Return the notice to a message's sender, ready to be queued, or None when nobody is to be told.

    Parameters
    ----------
    kind
        What to tell.
    envelope
        The original's envelope; its sender is who is told.
    reports
        One per recipient; those that do not want this kind are left out.
    original
        The original's content, or nothing where it cannot be read: then that part is left out.
    notice_id
        Identifier of the notice, not guessable: the MIME boundary is made of it.
    now, retry_until
        Seconds since the epoch; `retry_until` for delays.
    hostname, postmaster
        Reporting MTA and the address in From.

    Returns
    -------
    tuple or None
        The notice's envelope (null sender, NOTIFY=NEVER) and content.
    """
    told = [report for report in reports if wanted(report.recipient, kind)]
    if not envelope.sender or not told:
        return None
    whole = kind is NoticeKind.FAILURE and _whole_goes_back(envelope, original)
    returned = list(original) if whole else [_headers(original)]
    utf8 = envelope.smtputf8 or not envelope.sender.isascii()
    status = _status_part(kind, envelope, told, now=now, hostname=hostname, retry_until=retry_until, utf8=utf8)
    text = _text_part(kind, envelope, told, hostname=hostname, retry_until=retry_until)
    eight_bit = utf8 or not all(_is_ascii(chunk) for chunk in (*returned, status))
    encoding = "8bit" if eight_bit else "7bit"
    boundary = f"=_{notice_id}"

    head = _lines(
        [
            ("From", f"Mail Delivery System <{postmaster}>"),
            ("To", f"<{envelope.sender}>"),
            ("Subject", _SUBJECTS[kind]),
            ("Date", _date(now)),
            ("Message-ID", f"<{notice_id}@{hostname}>"),
            ("Auto-Submitted", "auto-generated" if kind is NoticeKind.DELAY else "auto-replied"),
            ("MIME-Version", "1.0"),
            (
                "Content-Type",
                f'multipart/report; report-type={"global-" if utf8 else ""}delivery-status; boundary="{boundary}"',
            ),
            ("Content-Transfer-Encoding", encoding),
        ],
        utf8=utf8,
    )
    delimiter = b"\r\n--" + boundary.encode() + b"\r\n"
    content = [
        head + delimiter + text,
        delimiter
        + _part_head("message/global-delivery-status" if utf8 else "message/delivery-status", encoding)
        + status,
    ]
    if any(returned):
        content += [delimiter + _part_head(_returned_type(whole=whole, utf8=utf8), encoding), *map(bytes, returned)]
    content.append(b"\r\n--" + boundary.encode() + b"--\r\n")
    return (
        Envelope(
            id=notice_id,
            received_at=now,
            sender="",
            recipients=[Recipient(address=envelope.sender, notify=("NEVER",))],
            size=content_size(content),
            body=Body.EIGHT_BIT_MIME if eight_bit else Body.SEVEN_BIT,
            smtputf8=utf8,
            connector="dsn",
            auth_as="Internal",
        ),
        content,
    )


def status_of(reply: str, *, delivered: bool = False, delayed: bool = False) -> str:
    """Return the enhanced status code of a reply (RFC 3463), or the general one of its class."""
    match = _STATUS.match(reply)
    wanted_class = "2" if delivered else "4" if delayed else "5"
    if match is None:
        return f"{wanted_class}.0.0"
    # A transient status in a failure is one that was repeated until the message expired.
    return f"{wanted_class}.{match[2]}.{match[3]}"


def decode_xtext(text: str) -> str:
    """Return what xtext (RFC 3461 section 4) or unitext (RFC 6533 section 3) stands for."""

    def character(match: re.Match[str]) -> str:
        point = int(match[1], 16)
        return chr(point) if point < 0x110000 and not 0xD800 <= point < 0xE000 else "?"

    return _UNITEXT.sub(character, _XTEXT.sub(character, text))


def clean(value: str, *, utf8: bool = True) -> str:
    """Return `value` fit for one header field: no control characters or line ends, bounded, ASCII if asked."""
    value = _CONTROLS.sub(" ", value).strip()
    if not utf8 and not value.isascii():
        value = "".join(c if c.isascii() else f"\\x{{{ord(c):02X}}}" for c in value)
    return value[:_MAX_VALUE]


def _whole_goes_back(envelope: Envelope, original: Content) -> bool:
    return envelope.ret == "FULL" and envelope.body is not Body.BINARY_MIME and content_size(original) <= MAX_RETURNED


def _returned_type(*, whole: bool, utf8: bool) -> str:
    if utf8:
        return "message/global" if whole else "message/global-headers"
    return "message/rfc822" if whole else "text/rfc822-headers"


def _is_ascii(chunk: bytes | bytearray | memoryview) -> bool:
    return bytes(chunk).isascii() if isinstance(chunk, memoryview) else chunk.isascii()


def _headers(original: Content) -> bytes:
    """Return the header block without the blank line, from as little of the content as holds it."""
    block = bytearray()
    for chunk in original:
        scanned = max(0, len(block) - 3)
        block += chunk[: MAX_RETURNED_HEADERS - len(block)]
        end = block.find(b"\r\n\r\n", scanned)
        if end >= 0:
            return bytes(block[: end + 2])
        if len(block) >= MAX_RETURNED_HEADERS:
            return bytes(block[: block.rfind(b"\r\n") + 2])
    return bytes(block)


def _status_part(
    kind: NoticeKind,
    envelope: Envelope,
    reports: Iterable[Report],
    *,
    now: float,
    hostname: str,
    retry_until: float | None,
    utf8: bool,
) -> bytes:
    """Return the fields of RFC 3464 section 2: one block for the message, one for each recipient."""
    fields = [("Reporting-MTA", f"dns; {hostname}")]
    if envelope.envid:
        fields.append(("Original-Envelope-Id", decode_xtext(envelope.envid)))
    fields.append(("X-Postroad-Queue-ID", envelope.id))
    fields.append(("Arrival-Date", _date(envelope.received_at)))
    blocks = [_lines(fields, utf8=utf8)]
    for report in reports:
        recipient = report.recipient
        fields = []
        original = _original_recipient(recipient)
        if original:
            fields.append(("Original-Recipient", original))
        status = report.status or status_of(
            report.reply,
            delivered=kind in (NoticeKind.SUCCESS, NoticeKind.RELAYED),
            delayed=kind is NoticeKind.DELAY,
        )
        fields += [
            ("Final-Recipient", _typed(recipient.address)),
            ("Action", _ACTIONS[kind]),
            ("Status", status),
        ]
        host = report.remote.partition("[")[0].strip()
        if host:
            fields.append(("Remote-MTA", f"dns; {host}"))
        if report.reply:
            # Only what a peer said is an SMTP reply (RFC 3464 section 2.3.6).
            fields.append(("Diagnostic-Code", f"{'smtp' if report.remote else 'x-postroad'}; {report.reply}"))
        fields.append(("Last-Attempt-Date", _date(now)))
        if kind is NoticeKind.DELAY and retry_until is not None:
            fields.append(("Will-Retry-Until", _date(retry_until)))
        blocks.append(_lines(fields, utf8=utf8))
    return b"\r\n".join(blocks)


def _original_recipient(recipient: Recipient) -> str:
    """Return the Original-Recipient value: ORCPT decoded, else what RCPT TO said."""
    kind, separator, address = recipient.orcpt.partition(";")
    if separator and address:
        return f"{kind.lower()}; {decode_xtext(address)}"
    return _typed(recipient.original) if recipient.original else ""


def _typed(address: str) -> str:
    return f"{'rfc822' if address.isascii() else 'utf-8'}; {address}"


def _text_part(
    kind: NoticeKind, envelope: Envelope, reports: Iterable[Report], *, hostname: str, retry_until: float | None
) -> bytes:
    lines = [f"This is the mail system at {hostname}.", "", _TEXTS[kind], ""]
    if kind is NoticeKind.DELAY and retry_until is not None:
        lines += [f"It will be tried until {_date(retry_until)}.", ""]
    for report in reports:
        said = f"{report.remote.partition('[')[0]} said: " if report.remote else ""
        lines.append(f"<{clean(report.recipient.address)}>: {clean(said + report.reply)}".rstrip(": "))
    lines += ["", f"Queue identifier: {clean(envelope.id)}", ""]
    part = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    part.set_content("\n".join(lines), charset="utf-8")
    del part["MIME-Version"]
    return part.as_bytes()


def _part_head(content_type: str, encoding: str) -> bytes:
    return f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()


def _lines(fields: Iterable[tuple[str, str]], *, utf8: bool) -> bytes:
    return "".join(f"{name}: {clean(value, utf8=utf8)}\r\n" for name, value in fields).encode()


def _date(moment: float) -> str:
    return format_datetime(datetime.fromtimestamp(moment, UTC))
