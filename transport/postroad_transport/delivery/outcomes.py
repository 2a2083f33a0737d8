"""What the outcomes of one attempt mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from postroad_transport.config import Lmtp, Maildir
from postroad_transport.delivery.hop import Outcome, Result
from postroad_transport.delivery.notices import NoticeKind
from postroad_transport.message import Recipient
from postroad_transport.routing.table import Target

Pair = tuple[Recipient, Outcome]


def no_peer(outcomes: Sequence[Outcome]) -> bool:
    """Return whether no next hop answered at all, so that the attempt tells nothing of the message."""
    return all(
        outcome.result is Result.DEFERRED and (not outcome.remote or outcome.reply[4:9] == "4.4.1")
        for outcome in outcomes
    )


def destination_down(outcomes: Sequence[Outcome]) -> bool:
    """Return whether the attempt tells of the destination rather than of the message.

    So it does when no peer answered, or the session as a whole came to nothing: 421 (RFC 5321 section 3.8),
    454 (RFC 3207, RFC 4954: TLS or authentication), a network status X.4.* or "not accepting network
    messages" X.3.2 (RFC 3463).
    """
    if outcomes[0].result is not Result.DEFERRED:
        return False
    return all(
        outcome.result is Result.DEFERRED
        and (
            not outcome.remote
            or outcome.reply.startswith(("421", "454"))
            or outcome.reply[4:8] == "4.4."
            or outcome.reply[4:9] == "4.3.2"
        )
        for outcome in outcomes
    )


def success_kind(target: Target, outcome: Outcome) -> NoticeKind | None:
    """Return the notice that a delivery to `target` is worth, or None where the peer sends it."""
    if outcome.dsn:
        return None
    return NoticeKind.SUCCESS if isinstance(target, Maildir | Lmtp) else NoticeKind.RELAYED


def alike(pairs: Sequence[Pair]) -> Iterable[tuple[Outcome, list[str]]]:
    """Return each distinct outcome with the addresses it befell: one event for each."""
    if len(pairs) == 1:
        recipient, outcome = pairs[0]
        return ((outcome, [recipient.address]),)
    groups: dict[Outcome, list[str]] = {}
    for recipient, outcome in pairs:
        groups.setdefault(outcome, []).append(recipient.address)
    return groups.items()
