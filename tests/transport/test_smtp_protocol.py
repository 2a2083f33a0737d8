"""The drop-in class where it means to differ from aiosmtpd, with aiosmtpd's own handler interface."""

from __future__ import annotations

import asyncio
import base64

import pytest
from conftest import Line

from postroad_transport.smtp.protocol import SMTP


class Recorder:
    """Keeps envelopes; raises or waits where it is told to."""

    def __init__(self) -> None:
        self.envelopes = []
        self.gate = None
        self.error = None

    async def handle_DATA(self, server, session, envelope):
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.envelopes.append(envelope)
        return "250 kept"


@pytest.fixture
async def serve():
    """Serve our class with a handler and options; return a connected client."""
    servers, lines = [], []

    async def start(handler, **options) -> Line:
        loop = asyncio.get_running_loop()
        options.setdefault("hostname", "mail.example.com")
        server = await loop.create_server(lambda: SMTP(handler, loop=loop, **options), "127.0.0.1", 0)
        servers.append(server)
        line = Line(*await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1]))
        lines.append(line)
        await line.start()
        return line

    yield start
    for line in lines:
        line.close()
    for server in servers:
        server.close()


async def to_data(line: Line) -> None:
    assert (await line.script("MAIL FROM:<a@c.example>", "RCPT TO:<b@example.com>", "DATA"))[-1][:3] == "354"


async def test_exception_of_a_handler_is_not_shown(serve):
    handler = Recorder()
    handler.error = RuntimeError("secret detail")
    line = await serve(handler)
    await to_data(line)
    await line.send(b".\r\n")
    assert await line.reply() == "451 4.3.0 Error: local problem, try again later"


async def test_half_closed_client_gets_the_handlers_answer(serve):
    handler = Recorder()
    handler.gate = asyncio.Event()
    line = await serve(handler)
    await to_data(line)
    await line.send(b"hi\r\n.\r\n")
    line.writer.write_eof()
    asyncio.get_running_loop().call_later(0.05, handler.gate.set)
    assert await line.reply() == "250 kept"
    assert handler.envelopes[0].content == b"hi\r\n"


async def test_parameters_reach_the_handler_as_sent(serve):
    handler = Recorder()
    line = await serve(handler)
    replies = await line.script(
        "MAIL FROM:<a@c.example> ENVID=MixedCase MT-PRIORITY=3 RET=HDRS",
        "RCPT TO:<b@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob@example.com",
        "DATA",
    )
    assert replies == ["250 OK", "250 OK", "354 End data with <CR><LF>.<CR><LF>"]
    await line.send(b".\r\n")
    await line.reply()
    (envelope,) = handler.envelopes
    assert envelope.mail_options == ["ENVID=MixedCase", "MT-PRIORITY=3", "RET=HDRS"]
    assert envelope.rcpt_options == ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;Bob@example.com"]


async def test_null_sender_is_passed_on_the_way_aiosmtpd_does(serve):
    handler = Recorder()
    line = await serve(handler)
    assert (await line.script("MAIL FROM:<>", "RCPT TO:<b@example.com>", "DATA"))[-1][:3] == "354"
    await line.send(b".\r\n")
    await line.reply()
    assert handler.envelopes[0].mail_from == "<>"


async def test_progressing_data_is_not_cut_by_the_timer(serve):
    handler = Recorder()
    line = await serve(handler, timeout=0.15)
    await to_data(line)
    for _ in range(12):
        await line.send(b"x" * 100 + b"\r\n")
        await asyncio.sleep(0.03)
    await line.send(b".\r\n")
    assert await line.reply() == "250 kept"


async def test_command_size_limits_belong_to_one_connection():
    loop = asyncio.get_running_loop()
    one, other = SMTP(None, loop=loop, hostname="h"), SMTP(None, loop=loop, hostname="h")
    one.command_size_limits["NOOP"] = 9999
    assert other.command_size_limits["NOOP"] == 512


async def test_bare_lf_in_a_command_is_refused(serve):
    line = await serve(Recorder())
    await line.send(b"NOOP\n")
    assert await line.reply() == "500 5.5.2 Error: bare <CR> or <LF> received"


async def test_bare_line_ends_in_data_are_refused_where_that_is_on(serve, monkeypatch):
    monkeypatch.setattr(SMTP, "refuse_bare_line_ends", True)
    handler = Recorder()
    line = await serve(handler)
    await to_data(line)
    await line.send(b"a\n.\nb\r\n.\r\n")
    assert await line.reply() == "554 5.6.0 Error: bare <CR> or <LF> in message"
    assert handler.envelopes == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_authenticator_may_be_asynchronous(serve, mechanism):
    async def authenticate(name, login, password):
        await asyncio.sleep(0)
        return (name, login, password) == (mechanism, b"user", b"pencil")

    line = await serve(Recorder(), auth_require_tls=False, auth_callback=authenticate)
    encode = base64.b64encode
    if mechanism == "PLAIN":
        assert (await line.ask(b"AUTH PLAIN " + encode(b"\0user\0wrong")))[:3] == "535"
        assert (await line.ask(b"AUTH PLAIN " + encode(b"\0user\0pencil")))[:3] == "235"
    else:
        await line.ask(b"AUTH LOGIN " + encode(b"user"))
        assert (await line.ask(encode(b"pencil")))[:3] == "235"


async def test_hook_tables_are_looked_up_once_per_type(monkeypatch):
    from postroad_transport.smtp import hooks

    loop, handler = asyncio.get_running_loop(), Recorder()
    assert set(SMTP(handler, loop=loop, hostname="h")._handle_hooks) == {"DATA"}
    before = hooks._names.cache_info().misses
    for _ in range(50):
        assert set(SMTP(Recorder(), loop=loop, hostname="h")._handle_hooks) == {"DATA"}
    assert hooks._names.cache_info().misses == before


async def test_shutdown_answers_421_when_idle(serve):
    made = []

    class Kept(Recorder):
        async def handle_NOOP(self, server, session, envelope, arg):
            made.append(server)
            return "250 OK"

    line = await serve(Kept())
    await line.ask("NOOP")
    made[0].shutdown()
    assert await line.reply() == "421 4.3.2 Service shutting down"
    assert await line.at_end()
