"""The queue engine, with a store in memory, scripted hops and a clock the test drives."""

import asyncio
import email

import pytest
from delivery_fakes import BUSY, DEAD, DELIVERED, REFUSED, START, MemoryStore, Table, Tier, make_route, turns

from postroad_transport.config import Maildir, RetryPolicy, SendLimits
from postroad_transport.delivery.hop import Outcome, Result
from postroad_transport.message import Recipient, RecipientState


async def test_a_delivered_message_is_settled_and_leaves_its_steps_in_the_log():
    tier = Tier()
    message_id = await tier.send("bob@there.test")
    assert tier.hop("there.test").attempts == [(message_id, ["bob@there.test"], b"Subject: hi\r\n\r\nhello\r\n")]
    assert tier.store.journal == [("commit", message_id), ("settle", message_id)]
    assert len(tier.queue) == 0
    route, send = tier.events.records
    assert (route["event"], route["id"], route["destination"]) == ("ROUTE", message_id, "fake:there.test")
    assert (send["event"], send["id"], send["remote"], send["tls"]) == (
        "SEND",
        message_id,
        "mx[192.0.2.1]:25",
        "TLSv1.3",
    )
    assert tier.counted("postroad_deliveries_total", connector="out", result="delivered") == 1
    assert tier.counted("postroad_sent_bytes_total", connector="out") == 22
    assert tier.counted("postroad_deliver_seconds_count", connector="out") == 1


async def test_recipients_of_one_destination_share_a_transaction_and_large_sets_are_split():
    tier = Tier(routes={"a.test": "fake:hub", "b.test": "fake:hub"})
    await tier.send("x@a.test", "y@b.test", "z@c.test")
    assert [addresses for _, addresses, _ in tier.hop("hub").attempts] == [["x@a.test", "y@b.test"]]
    assert [addresses for _, addresses, _ in tier.hop("c.test").attempts] == [["z@c.test"]]
    await tier.send(*(f"u{n}@d.test" for n in range(250)))
    assert sorted(len(addresses) for _, addresses, _ in tier.hop("d.test").attempts) == [50, 100, 100]
    assert not tier.store.envelopes


async def test_a_deferred_recipient_is_tried_again_on_schedule_and_the_store_knows():
    tier = Tier(policy=RetryPolicy(schedule=(60, 300)))
    tier.hop("there.test").script.extend([BUSY, BUSY])
    message_id = await tier.send("bob@there.test")
    stored = (await tier.store.get(message_id)).recipients[0]
    assert (stored.attempts, stored.next_attempt, stored.reply) == (1, START + 60, BUSY.reply)
    await tier.clock.advance(59)
    assert len(tier.hop("there.test").attempts) == 1
    await tier.clock.advance(1)
    assert len(tier.hop("there.test").attempts) == 2
    await tier.clock.advance(300)
    assert len(tier.hop("there.test").attempts) == 3
    assert not tier.store.envelopes
    assert [e["next_attempt"] for e in tier.events.of("DEFER")] == [START + 60, START + 360]


async def test_only_the_deferred_recipients_of_a_transaction_are_tried_again():
    tier = Tier()
    tier.hop("there.test").script.append([DELIVERED, BUSY, REFUSED])
    message_id = await tier.send("a@there.test", "b@there.test", "c@there.test")
    states = [r.state for r in (await tier.store.get(message_id)).recipients]
    assert states == [RecipientState.DELIVERED, RecipientState.QUEUED, RecipientState.FAILED]
    await tier.clock.advance(60)
    assert [a for i, a, _ in tier.hop("there.test").attempts if i == message_id][1:] == [["b@there.test"]]
    assert message_id not in tier.store.envelopes


async def test_a_failure_sends_one_notice_that_is_durable_before_the_message_is_settled():
    tier = Tier()
    tier.hop("there.test").default = REFUSED
    message_id = await tier.send("bob@there.test", sender="ann@here.test")
    assert tier.store.journal == [
        ("commit", message_id),
        ("commit", "notice1"),
        ("settle", message_id),
        ("settle", "notice1"),
    ]
    [(notice_id, recipients, content)] = tier.hop("here.test").attempts
    assert (notice_id, recipients) == ("notice1", ["ann@here.test"])
    notice = email.message_from_bytes(content)
    assert notice.get_content_type() == "multipart/report"
    assert "550 5.1.1 no such user" in notice.get_payload(1).as_string()
    assert tier.counted("postroad_notices_total", kind="failure") == 1
    [dsn] = tier.events.of("DSN")
    assert (dsn["id"], dsn["notice"], dsn["recipient"]) == (message_id, "notice1", "ann@here.test")


async def test_when_the_notice_cannot_be_stored_the_failure_is_not_forgotten():
    tier = Tier()
    tier.hop("there.test").default = REFUSED
    message_id = await tier.accept("bob@there.test")
    tier.store.broken.add("commit")
    await turns()
    assert (await tier.store.get(message_id)).recipients[0].state is RecipientState.QUEUED
    assert not tier.events.of("FAIL")
    tier.store.broken.clear()
    await tier.clock.advance(60)
    assert message_id not in tier.store.envelopes
    assert len(tier.hop("here.test").attempts) == 1


class CrashingStore(MemoryStore):
    """Stops for good at a chosen operation, as a killed process does; `before` or after it takes effect."""

    def __init__(self, crash_at, *, before):
        super().__init__()
        self.crash_at, self.before, self.operations = crash_at, before, 0

    def _do(self, verb, message_id):
        if self.operations >= self.crash_at and (self.before or self.operations > self.crash_at):
            raise asyncio.CancelledError
        self.operations += 1
        super()._do(verb, message_id)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("crash_at", range(1, 9))
async def test_a_crash_at_any_store_operation_loses_neither_a_message_nor_a_failure(crash_at, before):
    delivered, told = set(), set()
    store = CrashingStore(crash_at, before=before)

    def script(tier):
        async def deliver(envelope, recipients, content):
            for recipient in recipients:
                if recipient.address == "ann@here.test":
                    told.update(a for a in ("no@there.test", "never@there.test") if a.encode() in b"".join(content))
            outcomes = [REFUSED if r.address.startswith("n") else DELIVERED for r in recipients]
            delivered.update(r.address for r, o in zip(recipients, outcomes, strict=True) if o is DELIVERED)
            return outcomes

        for domain in ("there.test", "here.test"):
            tier.hop(domain).deliver = deliver
        return tier

    tier = script(Tier(store))
    accepted = []
    for recipients in (["no@there.test", "yes@there.test"], ["never@there.test"]):
        try:
            await tier.accept(*recipients)
        except asyncio.CancelledError:
            break
        accepted += recipients
    await turns()
    survivor = MemoryStore()
    survivor.envelopes, survivor.contents = store.envelopes, store.contents
    again = script(Tier(survivor))
    await again.queue.recover()
    await turns(40)
    assert {a for a in accepted if a.startswith("n")} <= told
    assert {a for a in accepted if a.startswith("y")} <= delivered
    assert not survivor.envelopes


async def test_nobody_is_told_about_a_message_from_the_null_sender():
    tier = Tier()
    tier.hop("there.test").default = REFUSED
    message_id = await tier.send("bob@there.test", sender="")
    assert not tier.store.envelopes
    assert [v for v, _ in tier.store.journal] == ["commit", "settle"]
    assert tier.events.of("DSN") == [
        {"event": "DSN", "id": message_id, "action": "dropped", "reason": "the sender is null"}
    ]


async def test_a_notice_that_fails_makes_no_other():
    tier = Tier()
    tier.hop("there.test").default = REFUSED
    tier.hop("here.test").default = REFUSED
    await tier.send("bob@there.test")
    await turns()
    assert not tier.store.envelopes
    assert [v for v, _ in tier.store.journal].count("commit") == 2


async def test_notify_never_is_honoured():
    tier = Tier()
    tier.hop("there.test").default = REFUSED
    await tier.send(Recipient(address="bob@there.test", notify=("NEVER",)))
    assert not tier.store.envelopes
    assert not tier.hop("here.test").attempts


async def test_a_message_expires_after_one_last_try_and_its_sender_is_told():
    tier = Tier(policy=RetryPolicy(schedule=(100,), expiration=250, delay_notification=0))
    tier.hop("there.test").default = BUSY
    message_id = await tier.send("bob@there.test")
    await tier.clock.advance(249)
    assert len(tier.hop("there.test").attempts) == 3
    await tier.clock.advance(1)
    assert len(tier.hop("there.test").attempts) == 4
    [expired] = tier.events.of("EXPIRE")
    assert (expired["id"], expired["reply"]) == (message_id, BUSY.reply)
    [(_, _, content)] = tier.hop("here.test").attempts
    assert b"Status: 5.4.7" in content
    assert tier.counted("postroad_deliveries_total", connector="out", result="expired") == 1
    assert not tier.store.envelopes


async def test_a_delay_is_told_once():
    tier = Tier(policy=RetryPolicy(schedule=(100,), expiration=1000, delay_notification=250))
    tier.hop("there.test").default = BUSY
    message_id = await tier.send("bob@there.test")
    await tier.clock.advance(299)
    assert not tier.hop("here.test").attempts
    await tier.clock.advance(400)
    [(_, _, content)] = tier.hop("here.test").attempts
    assert b"Action: delayed" in content
    assert (await tier.store.get(message_id)).recipients[0].delay_notified


async def test_messages_that_were_never_tried_are_delayed_and_expire_too():
    tier = Tier(policy=RetryPolicy(schedule=(60, 1000), expiration=2000, delay_notification=500))
    tier.hop("dead.test").default = DEAD
    for _ in range(30):
        await tier.accept("bob@dead.test")
    await turns()
    await tier.clock.advance(600)
    assert tier.counted("postroad_notices_total", kind="delay") == 30
    await tier.clock.advance(2000)
    assert tier.counted("postroad_notices_total", kind="failure") == 30
    assert len(tier.hop("dead.test").attempts) < 30
    assert not tier.store.envelopes
    assert all(b"connection refused" in content for _, _, content in tier.hop("here.test").attempts)


async def test_success_is_told_when_asked_for():
    tier = Tier()
    tier.hop("there.test").script.append([DELIVERED, DELIVERED])
    await tier.send(Recipient(address="bob@there.test", notify=("SUCCESS",)), "eve@there.test")
    [(_, _, content)] = tier.hop("here.test").attempts
    assert b"Action: relayed" in content
    assert b"bob@there.test" in content
    assert b"eve@there.test" not in content


async def test_success_is_left_to_a_peer_that_took_the_request():
    tier = Tier()
    tier.hop("there.test").default = Outcome(Result.DELIVERED, "250 2.0.0 ok", "mx", dsn=True)
    await tier.send(Recipient(address="bob@there.test", notify=("SUCCESS",)))
    assert not tier.hop("here.test").attempts


async def test_a_dead_destination_is_probed_with_one_message_and_recovers_as_a_whole():
    tier = Tier()
    tier.hop("dead.test").default = DEAD
    for _ in range(1000):
        await tier.accept("bob@dead.test")
    await turns()
    first = len(tier.hop("dead.test").attempts)
    assert first <= 5
    await tier.clock.advance(300)
    # 2, 4, 8 ... 128 seconds: one probe each.
    assert len(tier.hop("dead.test").attempts) - first == 7
    tier.hop("dead.test").default = DELIVERED
    await tier.clock.advance(300)
    await turns(300)
    assert not tier.store.envelopes


async def test_a_message_that_breaks_the_session_does_not_stop_the_others():
    tier = Tier()
    hop = tier.hop("there.test")
    broken = Outcome(Result.DEFERRED, "451 4.4.2 connection lost", "mx[192.0.2.1]:25")
    plain = hop.deliver

    async def deliver(envelope, recipients, content):
        outcomes = await plain(envelope, recipients, content)
        return [broken] * len(outcomes) if envelope.sender == "poison@here.test" else outcomes

    hop.deliver = deliver
    poison = await tier.accept("bob@there.test", sender="poison@here.test")
    for _ in range(50):
        await tier.accept("bob@there.test")
    await turns(100)
    await tier.clock.advance(10)
    assert list(tier.store.envelopes) == [poison]


async def test_unroutable_recipients_fail_or_wait_as_the_routing_says():
    tier = Tier()
    await tier.send("bob@nowhere.test", "eve@later.test")
    await turns()
    assert [e["reply"] for e in tier.events.of("FAIL")] == ["550 5.4.4 No route"]
    assert [e["reply"] for e in tier.events.of("DEFER")] == ["451 4.4.4 No route yet"]
    covered = Table()
    covered.route = lambda domain: Table().route("found")
    tier.queue.reload(covered, tier.hop_for)
    await turns()
    assert [a for _, a, _ in tier.hop("found").attempts] == [["eve@later.test"]]


async def test_reload_moves_waiting_mail_to_its_new_route_at_once():
    tier = Tier()
    tier.hop("there.test").default = BUSY
    message_id = await tier.send("bob@there.test")
    tier.queue.reload(Table({"there.test": "fake:elsewhere"}), tier.hop_for)
    await turns()
    assert [i for i, _, _ in tier.hop("elsewhere").attempts] == [message_id]
    assert tier.hop("there.test").closed == 1
    assert not tier.store.envelopes


async def test_notices_come_from_the_names_of_the_configuration_served_now():
    tier = Tier()
    tier.hop("there.test").default = REFUSED
    tier.queue.reload(Table(), tier.hop_for, hostname="new.test", postmaster="boss@new.test")
    await tier.send("bob@there.test")
    content = tier.hop("here.test").attempts[0][2]
    assert b"<boss@new.test>" in content
    assert b"Reporting-MTA: dns; new.test" in content


async def test_what_is_under_way_during_a_reload_ends_as_it_began_and_is_retried_by_the_new_route():
    tier = Tier()
    hop = tier.hop("there.test")
    hop.gate, hop.default = asyncio.Event(), BUSY
    await tier.send("bob@there.test")
    tier.queue.reload(Table({"there.test": "fake:elsewhere"}), tier.hop_for)
    await turns()
    assert hop.closed == 0
    hop.gate.set()
    await turns()
    assert hop.closed == 1
    assert len(tier.hop("elsewhere").attempts) == 1


async def test_an_exception_defers_only_its_own_message():
    tier = Tier()
    tier.hop("there.test").script.append(RuntimeError("bug"))
    bad = await tier.accept("bob@there.test")
    await tier.send("eve@there.test")
    assert list(tier.store.envelopes) == [bad]
    [error] = tier.events.of("delivery.error")
    assert (error["id"], error["error"]) == (bad, "RuntimeError: bug")
    await tier.clock.advance(1000)
    assert not tier.store.envelopes


async def test_a_hop_with_the_wrong_number_of_outcomes_loses_nothing():
    tier = Tier()
    tier.hop("there.test").script.append([DELIVERED])
    await tier.send("a@there.test", "b@there.test")
    assert tier.events.of("delivery.error")
    await tier.clock.advance(1000)
    assert not tier.store.envelopes


async def test_a_hop_that_cannot_be_made_defers():
    tier = Tier()
    made = tier.queue._hop_factory
    tier.queue._hop_factory = lambda route: 1 / 0
    message_id = await tier.send("bob@there.test")
    assert message_id in tier.store.envelopes
    tier.queue._hop_factory = made
    await tier.clock.advance(1000)
    assert not tier.store.envelopes


async def test_a_corrupt_envelope_neither_raises_nor_stops_the_queue():
    tier = Tier()
    await tier.accept("bob@there.test", id="bad", received_at="yesterday")
    await tier.send("bob@there.test")
    assert list(tier.store.envelopes) == ["bad"]
    assert [e["id"] for e in tier.events.of("delivery.error")] == ["bad"]


async def test_a_routing_failure_defers_until_the_table_works():
    tier = Tier()
    works = tier.table.route
    tier.table.route = lambda domain: 1 / 0
    message_id = await tier.send("bob@there.test")
    assert message_id in tier.store.envelopes
    tier.table.route = works
    await tier.clock.advance(1000)
    assert not tier.store.envelopes


async def test_recovery_queues_what_the_store_holds_and_keeps_its_times():
    tier = Tier()
    tier.hop("there.test").script.append(BUSY)
    waiting = await tier.send("bob@there.test")
    await tier.queue.drain(0)
    fresh = await tier.accept("eve@there.test")
    again = Tier(tier.store, clock=tier.clock)
    assert await again.queue.recover() == 2
    await turns()
    assert [i for i, _, _ in again.hop("there.test").attempts] == [fresh]
    assert list(tier.store.envelopes) == [waiting]
    assert await again.queue.recover() == 0
    await again.clock.advance(60)
    assert not tier.store.envelopes


async def test_a_message_without_recipients_left_is_settled_on_recovery():
    store = MemoryStore()
    tier = Tier(store)
    done = Recipient(address="bob@there.test", state=RecipientState.DELIVERED)
    await tier.accept(done)
    await tier.clock.advance(31)
    assert not store.envelopes
    assert not tier.hop("there.test").attempts


async def test_content_beyond_the_memory_bound_is_read_back():
    tier = Tier(cache_bytes=30, capacity=2)
    gate = tier.hop("there.test").gate = asyncio.Event()
    for _ in range(5):
        await tier.accept("bob@there.test")
    assert tier.queue._ledger.contents.kept_bytes == 22
    gate.set()
    await turns(40)
    assert [c for _, _, c in tier.hop("there.test").attempts] == [b"Subject: hi\r\n\r\nhello\r\n"] * 5
    assert not tier.store.envelopes
    assert tier.queue._ledger.contents.kept_bytes == 0


async def test_content_that_cannot_be_read_defers_and_says_nothing_of_the_destination():
    tier = Tier(cache_bytes=0)
    tier.store.broken.add("content")
    message_id = await tier.send("bob@there.test")
    assert tier.events.of("DEFER")[0]["reply"].startswith("451 4.3.0")
    assert not tier.hop("there.test").attempts
    assert tier.queue._scheduler.destinations["fake:there.test"].failures == 0
    tier.store.broken.clear()
    await tier.clock.advance(60)
    assert message_id not in tier.store.envelopes


async def test_a_message_the_store_does_not_know_is_dropped_with_an_event():
    tier = Tier(cache_bytes=0)
    gate = tier.hop("there.test").gate = asyncio.Event()
    message_id = await tier.accept("bob@there.test")
    tier.store.settle(message_id)
    tier.store.envelopes[message_id] = b""
    await turns()
    gate.set()
    assert [e["id"] for e in tier.events.of("delivery.missing")] == [message_id]
    assert len(tier.queue) == 0


@pytest.mark.parametrize("verb", ["settle", "update"])
async def test_what_the_store_refuses_is_saved_later(verb):
    tier = Tier(policy=RetryPolicy(schedule=(3600,)))
    tier.hop("there.test").default = BUSY if verb == "update" else DELIVERED
    tier.store.broken.add(verb)
    message_id = await tier.send("bob@there.test")
    tier.store.broken.clear()
    await tier.clock.advance(31)
    assert (verb, message_id) in tier.store.journal


async def test_concurrency_adapts_up_to_the_connectors_limit():
    tier = Tier(limits=SendLimits(connections=8))
    hop = tier.hop("there.test")
    hop.gate = asyncio.Event()
    for _ in range(100):
        await tier.accept("bob@there.test")
    await turns()
    assert hop.running == 5
    hop.gate.set()
    await turns(200)
    assert hop.most_running <= 8
    assert not tier.store.envelopes


async def test_idle_hops_are_closed():
    tier = Tier()
    await tier.send("bob@there.test")
    await tier.clock.advance(120)
    assert tier.hop("there.test").closed == 1


async def test_drain_finishes_what_runs_and_starts_nothing():
    tier = Tier(capacity=1)
    hop = tier.hop("there.test")
    hop.gate = asyncio.Event()
    running = await tier.accept("bob@there.test")
    waiting = await tier.send("eve@there.test")
    drain = asyncio.create_task(tier.queue.drain(5.0))
    await turns()
    hop.gate.set()
    await drain
    assert list(tier.store.envelopes) == [waiting]
    assert [i for i, _, _ in hop.attempts] == [running]
    assert hop.closed == 1
    late = await tier.send("eve@there.test")
    assert late in tier.store.envelopes


async def test_drain_cuts_off_what_does_not_end():
    tier = Tier()
    tier.hop("there.test").gate = asyncio.Event()
    message_id = await tier.send("bob@there.test")
    await tier.queue.drain(0.01)
    assert message_id in tier.store.envelopes
    assert tier.events.of("delivery.cut")[0]["transactions"] == 1


async def test_gauges_are_right_when_read():
    tier = Tier()
    tier.hop("dead.test").default = DEAD
    await tier.send("a@dead.test", "b@dead.test")
    await tier.clock.advance(100)
    tier.queue.measure()
    assert tier.counted("postroad_queue_recipients", destination="fake:dead.test") == 2
    assert tier.counted("postroad_queue_oldest_age_seconds", destination="fake:dead.test") == 100


async def test_gauges_have_bounded_labels():
    tier = Tier()
    for n in range(130):
        tier.hop(f"d{n}.test").default = DEAD
        await tier.accept(f"a@d{n}.test")
    await turns()
    tier.queue.measure()
    assert tier.counted("postroad_queue_recipients", destination="other") == 30


async def test_success_after_final_delivery_says_delivered():
    tier = Tier()
    route = make_route("fake:local", target=Maildir(path="x"))
    tier.table.route = lambda domain: route if domain == "local.test" else Table().route(domain)
    await tier.send(Recipient(address="bob@local.test", notify=("SUCCESS",)))
    assert b"Action: delivered" in tier.hop("here.test").attempts[0][2]


async def test_a_success_notice_that_cannot_be_stored_does_not_deliver_twice():
    tier = Tier()
    await tier.accept(Recipient(address="bob@there.test", notify=("SUCCESS",)))
    tier.store.broken.add("commit")
    await turns()
    await tier.clock.advance(10_000)
    assert len(tier.hop("there.test").attempts) == 1
    assert not tier.store.envelopes


async def test_content_read_back_at_the_same_time_is_bounded():
    tier = Tier(cache_bytes=0)
    most = 0
    reading = asyncio.Event()
    read = tier.store.content
    loaded = tier.queue._ledger.contents

    async def content(message_id):
        nonlocal most
        most = max(most, loaded._loaded_bytes)
        await reading.wait()
        return await read(message_id)

    tier.store.content = content
    loaded._limit = 50
    for _ in range(7):
        await tier.accept("bob@there.test", size=22)
    await tier.accept("bob@there.test", size=1000)
    await turns()
    reading.set()
    await turns(100)
    assert most == 1000
    assert loaded._loaded_bytes == 0
    assert len(tier.hop("there.test").attempts) == 8


async def test_connectors_that_lead_to_one_host_by_different_terms_have_their_own_queues():
    tier = Tier()
    plain = make_route("fake:hub")
    other = make_route("fake:hub", policy=RetryPolicy(schedule=(7,)))
    tier.table.route = lambda domain: other if domain == "b.test" else plain
    tier.hop("hub").default = tier.hop("hub#out").default = BUSY
    await tier.send("x@a.test", "y@b.test", "z@c.test")
    assert [a for _, a, _ in tier.hop("hub").attempts] == [["x@a.test", "z@c.test"]]
    assert [a for _, a, _ in tier.hop("hub#out").attempts] == [["y@b.test"]]


async def test_a_reload_that_changes_how_a_dead_destination_is_reached_tries_at_once():
    tier = Tier()
    tier.hop("dead.test").default = DEAD
    for _ in range(3):
        await tier.accept("bob@dead.test")
    await turns()
    await tier.clock.advance(100)
    tier.hop("dead.test").default = DELIVERED
    tier.queue.reload(Table(limits=SendLimits(connections=3)), tier.hop_for)
    await turns(30)
    assert not tier.store.envelopes


async def test_content_for_a_destination_that_is_left_alone_is_not_kept_in_memory():
    tier = Tier()
    tier.hop("dead.test").default = DEAD
    await tier.send("bob@dead.test")
    assert tier.queue._ledger.contents.kept_bytes == 0
    second = await tier.send("bob@dead.test")
    assert tier.queue._ledger.contents.kept_bytes == 0
    tier.hop("dead.test").default = DELIVERED
    await tier.clock.advance(100)
    assert not tier.store.envelopes
    assert tier.hop("dead.test").attempts[-1][0] == second


async def test_mail_for_a_suspended_connector_waits_and_goes_when_a_reload_lets_it():
    tier = Tier()
    tier.queue.reload(Table(suspend=True), tier.hop_for)
    message_id = await tier.send("bob@there.test")
    assert await tier.queue.admin.retry(message_id=message_id) == 1
    await turns()
    assert not tier.hop("there.test").attempts
    [listed] = await tier.queue.admin.list(state="suspended")
    assert listed["id"] == message_id
    assert "suspended" in listed["recipients"][0]["reply"]
    tier.queue.reload(Table(), tier.hop_for)
    await turns()
    assert not tier.store.envelopes
    assert len(tier.hop("there.test").attempts) == 1


async def test_mail_for_a_suspended_connector_expires_with_a_notice_that_says_so():
    tier = Tier(policy=RetryPolicy(schedule=(100,), expiration=1000, delay_notification=0))
    tier.queue.reload(Table(suspend=True, policy=tier.table.policy), tier.hop_for)
    await tier.send("bob@there.test", sender="ann@here.test")
    await tier.clock.advance(2000)
    [failed] = tier.events.of("EXPIRE")
    assert failed["reply"] == "451 4.3.2 The send connector is suspended"


async def test_a_reload_that_changes_nothing_leaves_a_dead_destination_alone():
    tier = Tier()
    tier.hop("dead.test").default = DEAD
    await tier.send("bob@dead.test")
    before = len(tier.hop("dead.test").attempts)
    tier.queue.reload(Table(), tier.hop_for)
    await turns()
    assert len(tier.hop("dead.test").attempts) == before


@pytest.mark.parametrize("after", [300, 5000])
async def test_a_delay_or_expiry_that_cannot_be_told_is_told_later(after):
    tier = Tier(policy=RetryPolicy(schedule=(200, 4000), expiration=4000, delay_notification=100))
    tier.hop("there.test").default = DEAD
    await tier.send("bob@there.test", sender="ann@here.test")
    tier.store.broken.add("commit")
    await tier.clock.advance(after)
    assert not tier.hop("here.test").attempts
    tier.store.broken.clear()
    await tier.clock.advance(10_000)
    contents = [c for _, _, c in tier.hop("here.test").attempts]
    assert any(b"Action: failed" in c for c in contents)
    assert any(b"Action: delayed" in c for c in contents) is (after == 300)
    assert not tier.store.envelopes


async def test_recovery_of_many_messages_lets_others_work_in_between():
    tier = Tier()
    await tier.queue.drain(0)
    for _ in range(1200):
        await tier.accept("bob@there.test")
    again = Tier(tier.store, clock=tier.clock)
    recovery = asyncio.create_task(again.queue.recover())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not recovery.done()
    assert await recovery == 1200
    await turns(600)
    assert not tier.store.envelopes
