"""``postroad probe``: one test message through a tier. What ``helm test`` runs."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import TypeVar

import click

Answer = TypeVar("Answer")

_DELIVERIES = "postroad_deliveries_total"
#: Seconds between looks at the metrics.
_LOOK = 0.5


def _endpoint(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise click.BadParameter(f"write HOST:PORT, or [ADDRESS]:PORT, not {value}")
    return host.removeprefix("[").removesuffix("]"), int(port)


@click.command()
@click.argument("server", callback=_endpoint)
@click.option("--to", "recipient", required=True, help="Recipient of the message.")
@click.option("--from", "sender", default="", help="Its sender. [default: none, as in a notice]")
@click.option("--implicit-tls", is_flag=True, help="TLS from the first byte. Otherwise STARTTLS where it is offered.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="CA file: the server must prove its name.")
@click.option("--user", default="", help="Log in as this user.")
@click.option("--password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its password.")
@click.option("--metrics", callback=_endpoint, metavar="HOST:PORT",
              help="Of the tier's pods: wait until they have delivered the message.")  # fmt: skip
@click.option("--wait", default=0.0, help="Seconds to try again while nothing answers: a network that goes by "
              "policies hears of a new pod a moment after the pod has begun.")  # fmt: skip
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for all of it.")
def probe(
    server: tuple[str, int],
    recipient: str,
    sender: str,
    implicit_tls: bool,
    ca: str | None,
    user: str,
    password_file: Path | None,
    metrics: tuple[str, int] | None,
    wait: float,
    timeout: float,
) -> None:
    """Send a test message to SERVER, HOST:PORT; with --metrics, wait for its delivery.

    The metrics are those of every address that the name has. They count deliveries and do not name messages: on a
    tier with other traffic somebody else's delivery counts, too.
    """
    began = time.monotonic()
    deadline = began + timeout
    context = ssl.create_default_context(cafile=ca)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    login = (user, password_file.read_text().strip()) if user and password_file else None
    try:
        before = _persist(lambda: _deliveries(metrics), began + wait) if metrics else Counter[str]()
        with _persist(
            lambda: (
                smtplib.SMTP_SSL(*server, timeout=timeout, context=context)
                if implicit_tls
                else smtplib.SMTP(*server, timeout=timeout)
            ),
            began + wait,
        ) as client:
            client.ehlo()
            if not implicit_tls and client.has_extn("starttls"):
                client.starttls(context=context)
            reply = _send(client, login, sender, recipient)
    except (OSError, smtplib.SMTPException) as error:
        raise click.ClickException(f"not accepted: {_what(error)}") from error
    click.echo(f"accepted: {reply}")
    if metrics:
        click.echo(_wait(metrics, before, deadline))


def _persist(ask: Callable[[], Answer], until: float) -> Answer:
    """Ask until there is an answer, if only a refusal, or until then (monotonic seconds). Raises OSError."""
    while True:
        try:
            return ask()
        except OSError as error:
            if isinstance(error, smtplib.SMTPResponseException) or time.monotonic() >= until:
                raise
        time.sleep(_LOOK)


def deliveries(exposition: str) -> Counter[str]:
    """Return how many recipients were delivered, deferred, failed or expired, from a ``/metrics`` answer."""
    from prometheus_client.parser import text_string_to_metric_families

    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == _DELIVERIES:
                found[sample.labels.get("result", "")] += int(sample.value)
    return found


def _message(sender: str, recipient: str) -> bytes:
    message = EmailMessage()
    message["From"] = sender or recipient
    message["To"] = recipient
    message["Subject"] = "Postroad test message"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="probe.invalid")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("This message was sent by postroad probe to see whether mail goes through.\n")
    return message.as_bytes(policy=SMTP)


def _send(client: smtplib.SMTP, login: tuple[str, str] | None, sender: str, recipient: str) -> str:
    """Send the message and return the reply to its end. Raises OSError, smtplib.SMTPException."""
    # STARTTLS begins the session anew.
    client.ehlo_or_helo_if_needed()
    if login:
        client.login(*login)
    for verb, (code, text) in (("MAIL", client.mail(sender)), ("RCPT", client.rcpt(recipient))):
        if code // 100 != 2:
            raise smtplib.SMTPResponseException(code, f"{text.decode(errors='replace')} (to {verb})")
    code, text = client.data(_message(sender, recipient))
    if code != 250:
        raise smtplib.SMTPResponseException(code, text)
    return f"{code} {text.decode(errors='replace')}"


def _wait(metrics: tuple[str, int], before: Counter[str], deadline: float) -> str:
    """Return what to say of the delivery; raises ClickException when it failed, or took too long."""
    while True:
        try:
            since = _deliveries(metrics) - before
        except OSError as error:
            raise click.ClickException(f"the metrics cannot be read: {_what(error)}") from error
        if since["delivered"]:
            return "delivered"
        if since["failed"] or since["expired"]:
            raise click.ClickException("accepted, but its delivery failed: see the event log of the pods")
        if time.monotonic() > deadline:
            deferred = "; it was deferred: see `postroad queue list` in the pods" if since["deferred"] else ""
            raise click.ClickException(f"accepted, but not delivered in time{deferred}")
        time.sleep(_LOOK)


def _deliveries(metrics: tuple[str, int]) -> Counter[str]:
    """Add up the counts of every address that the name has. Raises OSError."""
    host, port = metrics
    found: Counter[str] = Counter()
    for address in sorted({str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}):
        literal = f"[{address}]" if ":" in address else address
        with urllib.request.urlopen(f"http://{literal}:{port}/metrics", timeout=10) as response:
            found += deliveries(response.read().decode())
    return found


def _what(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
    return str(error) or type(error).__name__
