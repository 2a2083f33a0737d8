"""What an administrator does to the queue, and that the store knows of it."""

import asyncio

import pytest
from delivery_fakes import BUSY, DEAD, DELIVERED, START, Table, Tier, turns

from postroad_transport.config import RetryPolicy
from postroad_transport.spool.store import SpoolError


async def waiting(tier, *addresses, **fields):
    """Queue a message that waits for its second attempt."""
    for address in addresses:
        tier.hop(address.partition("@")[2]).default = BUSY
    return await tier.send(*addresses, **fields)


async def test_list_shows_where_each_recipient_stands():
    tier = Tier()
    message_id = await waiting(tier, "bob@there.test")
    await tier.clock.advance(10)
    [row] = await tier.admin.list()
    assert (row["id"], row["sender"], row["age"], row["held"]) == (message_id, "ann@here.test", 10, False)
    assert row["recipients"] == [
        {
            "address": "bob@there.test",
            "state": "waiting",
            "destination": "fake:there.test",
            "attempts": 1,
            "nextAttempt": START + 60,
            "reply": BUSY.reply,
            "remote": BUSY.remote,
        }
    ]


async def test_list_shows_why_messages_wait_that_were_never_tried():
    tier = Tier()
    tier.hop("dead.test").default = DEAD
    for _ in range(20):
        await tier.accept("bob@dead.test")
    await turns()
    rows = await tier.admin.list()
    assert len(rows) == 20
    assert {recipient["reply"] for row in rows for recipient in row["recipients"]} == {DEAD.reply}
    assert all(recipient["nextAttempt"] == START + 2 for row in rows for recipient in row["recipients"])


async def test_list_filters():
    tier = Tier()
    one = await waiting(tier, "bob@one.test", "eve@two.test", sender="a@here.test")
    two = await waiting(tier, "Eve@two.test", sender="")
    await tier.admin.hold(message_id=two)

    async def ids(**filters):
        return [row["id"] for row in await tier.admin.list(**filters)]

    assert await ids() == [one, two]
    assert await ids(limit=1) == [one]
    assert await ids(destination="fake:one.test") == [one]
    assert await ids(destination="fake:none.test") == []
    assert sorted(await ids(destination="fake:two.test")) == sorted([one, two])
    assert await ids(recipient="eve@TWO.test") == [one, two]
    assert await ids(sender="A@here.test") == [one]
    assert await ids(sender="") == [two]
    assert await ids(state="held") == [two]
    assert await ids(state="waiting", recipient="eve@two.test") == [one]
    [row] = await tier.admin.list(destination="fake:one.test")
    assert [recipient["address"] for recipient in row["recipients"]] == ["bob@one.test"]


async def test_show_gives_envelope_and_headers():
    tier = Tier()
    hop = tier.hop("there.test")
    hop.default = [DELIVERED, BUSY]
    message_id = await tier.send("bob@there.test", "eve@there.test")
    shown = await tier.admin.show(message_id, headers=True)
    assert shown["headers"] == "Subject: hi"
    assert shown["envelope"]["sender"] == "ann@here.test"
    assert [(r["address"], r["state"]) for r in shown["recipients"]] == [
        ("eve@there.test", "waiting"),
        ("bob@there.test", "delivered"),
    ]
    assert "headers" not in await tier.admin.show(message_id)


@pytest.mark.parametrize("verb", ["show", "retry", "hold", "release", "delete"])
async def test_an_unknown_id_is_a_key_error(verb):
    tier = Tier()
    call = getattr(tier.admin, verb)
    with pytest.raises(KeyError):
        await (call("none") if verb == "show" else call(message_id="none"))


@pytest.mark.parametrize("verb", ["retry", "hold", "release", "delete"])
async def test_nothing_chosen_touches_nothing(verb):
    tier = Tier()
    await waiting(tier, "bob@there.test")
    assert await getattr(tier.admin, verb)() == 0
    assert len(tier.queue) == 1


async def test_retry_tries_now():
    tier = Tier()
    one = await waiting(tier, "bob@one.test")
    await waiting(tier, "bob@two.test")
    tier.hop("one.test").default = tier.hop("two.test").default = DELIVERED
    assert await tier.admin.retry(message_id=one) == 1
    await turns()
    assert len(tier.queue) == 1
    assert await tier.admin.retry(everything=True) == 1
    await turns()
    assert len(tier.queue) == 0


async def test_retry_of_a_dead_destination_probes_at_once():
    tier = Tier()
    tier.hop("dead.test").default = DEAD
    for _ in range(20):
        await tier.accept("bob@dead.test")
    await turns()
    before = len(tier.hop("dead.test").attempts)
    assert await tier.admin.retry(destination="fake:dead.test") == 20
    await turns()
    assert len(tier.hop("dead.test").attempts) == before + 1
    tier.hop("dead.test").default = DELIVERED
    await tier.admin.retry(destination="fake:dead.test")
    await turns(40)
    assert len(tier.queue) == 0


async def test_held_messages_stay_over_a_restart_until_released():
    tier = Tier(policy=RetryPolicy(schedule=(60,), expiration=1000))
    message_id = await waiting(tier, "bob@there.test")
    assert await tier.admin.hold(message_id=message_id) == 1
    assert await tier.admin.hold(message_id=message_id) == 0
    await tier.clock.advance(5000)
    assert len(tier.hop("there.test").attempts) == 1
    assert not tier.events.of("EXPIRE")

    again = Tier(tier.store, clock=tier.clock)
    await again.queue.recover()
    await turns()
    assert not again.hop("there.test").attempts
    assert await again.admin.release(message_id=message_id) == 1
    await turns()
    assert len(again.hop("there.test").attempts) == 1
    assert not tier.store.envelopes


async def test_what_is_under_way_when_held_stays_held_if_deferred():
    tier = Tier()
    hop = tier.hop("there.test")
    hop.gate, hop.default = asyncio.Event(), BUSY
    message_id = await tier.send("bob@there.test")
    await tier.admin.hold(message_id=message_id)
    hop.gate.set()
    await tier.clock.advance(600)
    assert len(hop.attempts) == 1
    [row] = await tier.admin.list(state="held")
    assert row["id"] == message_id
    assert (await tier.store.get(message_id)).held


async def test_delete_removes_without_a_word():
    tier = Tier()
    message_id = await waiting(tier, "bob@there.test")
    assert await tier.admin.delete(message_id=message_id) == 1
    assert not tier.store.envelopes
    assert not tier.hop("here.test").attempts
    assert tier.events.of("FAIL")[0]["reply"].startswith("554 5.3.0")


async def test_delete_with_notice_tells_the_sender_first():
    tier = Tier()
    message_id = await waiting(tier, "bob@there.test")
    await tier.admin.delete(message_id=message_id, notice=True)
    await turns()
    verbs = [verb for verb, _ in tier.store.journal]
    assert verbs == ["commit", "update", "commit", "settle", "settle"]
    assert b"Deleted by the administrator" in tier.hop("here.test").attempts[0][2]


async def test_delete_keeps_the_message_when_its_notice_cannot_be_stored():
    tier = Tier()
    message_id = await waiting(tier, "bob@there.test")
    tier.store.broken.add("commit")
    with pytest.raises(SpoolError):
        await tier.admin.delete(message_id=message_id, notice=True)
    tier.hop("there.test").default = DELIVERED
    await turns()
    await tier.admin.retry(everything=True)
    await turns()
    assert not tier.store.envelopes
    assert not tier.hop("here.test").attempts
    assert len(tier.hop("there.test").attempts) == 2


@pytest.mark.parametrize("end", [BUSY, DELIVERED])
async def test_delete_of_what_is_under_way_waits_for_its_end(end):
    tier = Tier()
    hop = tier.hop("there.test")
    hop.gate, hop.default = asyncio.Event(), end
    message_id = await tier.send("bob@there.test")
    await tier.admin.delete(message_id=message_id)
    assert message_id in tier.store.envelopes
    hop.gate.set()
    await turns()
    assert not tier.store.envelopes
    assert len(tier.queue) == 0
    await tier.clock.advance(1000)
    assert len(hop.attempts) == 1


async def test_a_destination_can_be_emptied():
    tier = Tier()
    for _ in range(30):
        await waiting(tier, "bob@one.test")
    kept = await waiting(tier, "bob@two.test")
    assert await tier.admin.delete(destination="fake:one.test") == 30
    assert list(tier.store.envelopes) == [kept]


async def test_delete_with_notice_gets_everything_although_a_reload_moves_it_meanwhile():
    tier = Tier()
    message_id = await waiting(tier, "bob@there.test")
    commit = tier.store.commit

    async def slow(envelope, content):
        tier.queue.reload(Table({"there.test": "fake:elsewhere"}), tier.hop_for)
        await turns()
        await commit(envelope, content)

    tier.store.commit = slow
    await tier.admin.delete(message_id=message_id, notice=True)
    await turns()
    assert not tier.store.envelopes
    assert not tier.hop("elsewhere").attempts
