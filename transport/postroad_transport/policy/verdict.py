"""What a rule decides: allow, or refuse with a reply; and by what."""

from __future__ import annotations

from dataclasses import dataclass

from postroad_transport.config import Permission
from postroad_transport.policy.reply import Reply


@dataclass(frozen=True, slots=True)
class Allow:
    """The rule lets the verb pass. ``because`` is for explain: the grant or field that decided."""

    rule: str
    because: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The rule refuses the verb with `reply`. ``missing`` is the permission that would have allowed it."""

    rule: str
    reply: Reply
    because: str = ""
    missing: Permission | None = None


Verdict = Allow | Refuse
