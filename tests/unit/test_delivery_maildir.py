"""Maildir delivery on a real file system."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroad_transport.delivery.drop import DropHop
from postroad_transport.delivery.hop import Result
from postroad_transport.delivery.maildir import MaildirHop, encode_name, file_name, mailbox_path
from postroad_transport.delivery.outcomes import destination_down
from postroad_transport.message import Envelope, Recipient

CONTENT = [b"Subject: hi\r\n", memoryview(b"\r\nhello\r\nworld\r\n")]


def message(*addresses, sender="ann@here.test", message_id="m1"):
    return Envelope(
        id=message_id,
        received_at=1_700_000_000.25,
        sender=sender,
        recipients=[Recipient(address=address) for address in addresses],
    )


@pytest.fixture
async def hop(tmp_path):
    hop = MaildirHop("mail/{domain}/{local}", tmp_path, host="mx.test")
    yield hop
    await hop.close()


async def deliver(hop, envelope):
    return await hop.deliver(envelope, envelope.recipients, CONTENT)


async def test_a_message_arrives_in_new_with_its_trace_headers_and_lf_lines(hop, tmp_path):
    [outcome] = await deliver(hop, message("Bob@There.test"))
    assert (outcome.result, outcome.reply) == (Result.DELIVERED, "250 2.0.0 Stored")
    maildir = tmp_path / "mail/there.test/bob"
    [path] = (maildir / "new").iterdir()
    assert path.read_bytes() == (
        b"Return-Path: <ann@here.test>\nDelivered-To: Bob@There.test\nSubject: hi\n\nhello\nworld\n"
    )
    assert path.name.startswith("1700000000.M250000")
    assert path.name.endswith(f".mx.test,S={path.stat().st_size}")
    assert not list((maildir / "tmp").iterdir())
    assert (maildir / "cur").is_dir()


async def test_mailboxes_are_for_their_owner_only(hop, tmp_path):
    await deliver(hop, message("bob@there.test"))
    for directory in ("mail", "mail/there.test", "mail/there.test/bob", "mail/there.test/bob/new"):
        assert stat.S_IMODE((tmp_path / directory).stat().st_mode) == 0o700
    [path] = (tmp_path / "mail/there.test/bob/new").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_repeated_delivery_replaces_the_first(hop, tmp_path):
    await deliver(hop, message("bob@there.test"))
    await deliver(hop, message("bob@there.test"))
    assert len(list((tmp_path / "mail/there.test/bob/new").iterdir())) == 1


async def test_messages_and_recipients_that_share_a_mailbox_keep_their_own_copies(tmp_path):
    hop = MaildirHop("all", tmp_path)
    await deliver(hop, message("bob@there.test", "eve@there.test"))
    await deliver(hop, message("bob@there.test", message_id="m2"))
    assert len(list((tmp_path / "all/new").iterdir())) == 3
    await hop.close()


async def test_a_removed_mailbox_is_made_again(hop, tmp_path):
    await deliver(hop, message("bob@there.test"))
    maildir = tmp_path / "mail/there.test/bob"
    for path in sorted(maildir.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    maildir.rmdir()
    [outcome] = await deliver(hop, message("bob@there.test"))
    assert outcome.result is Result.DELIVERED
    assert len(list((maildir / "new").iterdir())) == 1


async def test_the_null_sender_is_shown_as_such(hop, tmp_path):
    await deliver(hop, message("bob@there.test", sender=""))
    [path] = (tmp_path / "mail/there.test/bob/new").iterdir()
    assert path.read_bytes().startswith(b"Return-Path: <>\n")


async def test_an_obstacle_defers_its_recipient_and_not_the_others(hop, tmp_path):
    (tmp_path / "mail/there.test").mkdir(parents=True)
    (tmp_path / "mail/there.test/bob").write_text("in the way")
    bob, eve = outcomes = await deliver(hop, message("bob@there.test", "eve@there.test"))
    assert (bob.result, bob.reply[:9]) == (Result.DEFERRED, "451 4.3.0")
    assert eve.result is Result.DELIVERED
    assert str(tmp_path) not in bob.reply
    assert not destination_down(outcomes)


@pytest.mark.parametrize(
    ("number", "reply", "down"),
    [
        (errno.ENOSPC, "452 4.3.1", True),
        (errno.EDQUOT, "452 4.2.2", False),
        (errno.EACCES, "451 4.3.0", False),
        (errno.EIO, "451 4.3.0", False),
    ],
)
async def test_failures_of_the_disk_defer_and_leave_nothing_behind(hop, tmp_path, monkeypatch, number, reply, down):
    real = os.writev

    def writev(descriptor, parts):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", writev)
    [outcome] = outcomes = await deliver(hop, message("bob@there.test"))
    assert (outcome.result, outcome.reply[:9]) == (Result.DEFERRED, reply)
    assert destination_down(outcomes) is down
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.setattr(os, "writev", real)
    [outcome] = await deliver(hop, message("bob@there.test"))
    assert outcome.result is Result.DELIVERED


async def test_short_writes_are_continued(hop, tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: real(descriptor, bytes(parts[0][:3])))
    await deliver(hop, message("bob@there.test"))
    [path] = (tmp_path / "mail/there.test/bob/new").iterdir()
    assert path.read_bytes().endswith(b"hello\nworld\n")
    assert path.stat().st_size == int(path.name.rpartition("=")[2])


async def test_the_file_is_durable_before_it_is_in_new_and_new_before_success(hop, tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)

        def traced(*arguments, name=name, real=real):
            steps.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, traced)
    await deliver(hop, message("bob@there.test"))
    assert steps[-3:] == ["fsync", "rename", "fsync"]


addresses = st.one_of(
    st.text(max_size=300),
    st.text("./\\~%\x00{}localdomain@ ", max_size=40),
    st.sampled_from(["../../etc/passwd@x", "a@../..", "/etc/passwd@/", "..@..", ".@.", "@", "", "a/../b@c", "é@ü"]),
)


@given(st.sampled_from(["m/{domain}/{local}", "{local}", "{domain}", "m/{local}@{domain}"]), addresses)
@example("m/{local}", "{domain}@../x")
def test_no_address_leads_out_of_the_template(template, address):
    path = mailbox_path(template, address)
    assert path.count("/") == template.count("/")
    assert not path.startswith("/")
    parts = path.split("/")
    assert all(part and part not in (".", "..") and not part.startswith(".") for part in parts)
    assert all(len(part.encode()) <= 410 and "\0" not in part for part in parts)
    assert path.isascii()


@given(st.text(max_size=30), st.text(max_size=30))
def test_different_names_are_encoded_differently(one, other):
    assert (encode_name(one) == encode_name(other)) == (one == other)


def test_plain_names_are_kept_as_they_are():
    assert encode_name("Bob.Smith_x-1+tag=a") == "Bob.Smith_x-1+tag=a"
    assert encode_name("a b") == "a%20b"
    assert encode_name(".hidden") == "%2Ehidden"
    assert encode_name("é") == "%C3%A9"
    assert len(encode_name("x" * 5000)) <= 255


def test_file_names_are_safe_whatever_the_host_and_id():
    name = file_name(message("a@b", message_id="../x:2,S"), Recipient(address="a@b"), 5, "h/o:st")
    assert "/" not in name
    assert ":" not in name


async def test_drop_takes_everything_and_keeps_nothing():
    hop = DropHop()
    envelope = message("a@b", "c@d")
    outcomes = await hop.deliver(envelope, envelope.recipients, CONTENT)
    assert [outcome.result for outcome in outcomes] == [Result.DELIVERED] * 2
    await hop.close()


async def test_an_absolute_path_is_taken_as_it_is(tmp_path):
    hop = MaildirHop(str(tmp_path / "spool/{local}"), Path("/nonexistent"))
    await deliver(hop, message("bob@there.test"))
    assert len(list((tmp_path / "spool/bob/new").iterdir())) == 1
    await hop.close()
