"""What outcomes say about a destination."""

import pytest

from postroad_transport.config import Lmtp, Maildir, SmtpHost
from postroad_transport.delivery.hop import Outcome, Result
from postroad_transport.delivery.outcomes import alike, destination_down, no_peer, success_kind
from postroad_transport.message import Recipient

MX = "mx[192.0.2.1]:25"


def deferred(reply, remote=MX):
    return Outcome(Result.DEFERRED, reply, remote)


@pytest.mark.parametrize(
    ("outcomes", "down", "unanswered"),
    [
        ([deferred("451 4.4.1 connection refused", "")], True, True),
        ([deferred("451 4.4.1 connect to mx: no answer in 30 s")], True, True),
        ([deferred("452 4.3.1 full", "")], True, True),
        ([deferred("421 4.7.0 too many connections")], True, False),
        ([deferred("454 4.7.5 certificate has expired")], True, False),
        ([deferred("451 4.3.2 mx refuses sessions")], True, False),
        ([deferred("451 4.4.2 connection lost")], True, False),
        ([deferred("450 4.2.0 greylisted")], False, False),
        ([deferred("451 4.4.1 refused"), deferred("450 4.2.0 busy")], False, False),
        ([deferred("451 4.4.1 refused"), Outcome(Result.FAILED, "550 5.1.1 no", MX)], False, False),
        ([Outcome(Result.DELIVERED, "250 ok", "")], False, False),
        ([Outcome(Result.FAILED, "550 5.1.2 no such domain", "")], False, False),
    ],
)
def test_an_attempt_tells_of_the_destination_or_of_the_message(outcomes, down, unanswered):
    assert destination_down(outcomes) is down
    assert no_peer(outcomes) is unanswered


@pytest.mark.parametrize(
    ("target", "dsn", "kind"),
    [
        (Maildir(path="x"), False, "success"),
        (Lmtp(host="h"), False, "success"),
        (SmtpHost(host="h"), False, "relayed"),
        (SmtpHost(host="h"), True, None),
    ],
)
def test_who_tells_of_success(target, dsn, kind):
    assert success_kind(target, Outcome(Result.DELIVERED, "250 ok", MX, dsn=dsn)) == kind


@pytest.mark.parametrize("count", [1, 5])
def test_equal_outcomes_are_told_together(count):
    outcomes = [deferred("450 busy"), Outcome(Result.DELIVERED, "250 ok")]
    pairs = [(Recipient(address=f"u{n}@x"), outcomes[n % 2]) for n in range(count)]
    grouped = dict(alike(pairs))
    assert sorted(address for group in grouped.values() for address in group) == sorted(r.address for r, _ in pairs)
    assert grouped[outcomes[0]] == [f"u{n}@x" for n in range(0, count, 2)]
