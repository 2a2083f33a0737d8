"""What the outcomes of one attempt mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from postroad_transport.config import Lmtp, Maildir
from postroad_transport.delivery.hop import Outcome, Result
from postroad_transport.delivery.notices import NoticeKind
from postroad_transport.message import Recipient
from postroad_transport.routing.table import Target

Pair = tuple[Recipient, Outcome]


def no_peer(outcomes: Sequence[Outcome]) -> bool:
    """Return whether no next hop was reached at all."""
    return all(outcome.result is Result.DEFERRED and not outcome.remote for outcome in outcomes)


def destination_down(outcomes: Sequence[Outcome]) -> bool:
    """Return whether the attempt tells of the destination rather than of the message.

    So it does when no peer was reached, or the session as a whole came to nothing: 421 (RFC 5321
    section 3.8) or a network status X.4.* (RFC 3463 section 3.5).
    """
    return all(
        outcome.result is Result.DEFERRED
        and (not outcome.remote or outcome.reply.startswith("421") or outcome.reply[4:8] == "4.4.")
        for outcome in outcomes
    )


def success_kind(target: Target, outcome: Outcome) -> NoticeKind | None:
    """Return the notice that a delivery to `target` is worth, or None where the peer sends it."""
    if outcome.dsn:
        return None
    return NoticeKind.SUCCESS if isinstance(target, Maildir | Lmtp) else NoticeKind.RELAYED


def alike(pairs: Iterable[Pair]) -> Iterator[tuple[Outcome, list[str]]]:
    """Yield each distinct outcome with the addresses it befell: one event for each."""
    groups: dict[Outcome, list[str]] = {}
    for recipient, outcome in pairs:
        groups.setdefault(outcome, []).append(recipient.address)
    yield from groups.items()
