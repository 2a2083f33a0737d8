"""The permission model as a matrix: cases from the tables of spec.md 1, and what each must answer.

The tables and the rules are written out here from the documents, apart from the product's code. A case is a
connector and a principal; what is expected of it is a reply or an observation for each probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SUBMIT, ANY_RCPT, ANY_SENDER = "SMTP-Submit", "SMTP-Accept-Any-Recipient", "SMTP-Accept-Any-Sender"
AUTHORITATIVE, FLAG = "SMTP-Accept-Authoritative-Domain-Sender", "SMTP-Accept-Authentication-Flag"
ROUTING, ORG, FOREST = "Accept-Headers-Routing", "Accept-Headers-Organization", "Accept-Headers-Forest"
EXCH50, BYPASS_SIZE, BYPASS_SPAM = "Accept-Exch50", "Bypass-Message-Size-Limit", "Bypass-Anti-Spam"
ALL = [SUBMIT, ANY_RCPT, ANY_SENDER, AUTHORITATIVE, FLAG, ROUTING, ORG, FOREST, EXCH50, BYPASS_SIZE, BYPASS_SPAM]
LEGACY = [SUBMIT, ANY_RCPT, ANY_SENDER, AUTHORITATIVE, FLAG, ROUTING, EXCH50, BYPASS_SIZE, BYPASS_SPAM]

SERVERS = ("HubTransportServers", "EdgeTransportServers", "ExternallySecuredServers")
PRINCIPALS = ("Anonymous", "user:alice", *SERVERS, "PartnerServers", "LegacyExchangeServers")

#: Table 1.3: group to (its principals, what it grants on a hub tier).
GROUPS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "AnonymousUsers": (("Anonymous",), [SUBMIT, ANY_SENDER, ROUTING]),
    "ExchangeUsers": (("AuthenticatedUsers",), [SUBMIT, ANY_RCPT, BYPASS_SPAM]),
    "ExchangeServers": (SERVERS, ALL),
    "ExchangeLegacyServers": (("LegacyExchangeServers",), LEGACY),
    "Partners": (("PartnerServers",), [SUBMIT, ROUTING]),
}
HUB_ONLY = {"ExchangeUsers", "ExchangeLegacyServers"}
#: Table 1.4: usage to its groups.
USAGES = {
    "Client": ["ExchangeUsers"],
    "Internal": ["ExchangeServers", "ExchangeLegacyServers"],
    "Internet": ["AnonymousUsers", "Partners"],
    "Partner": ["Partners"],
    "Custom": [],
}


@dataclass(frozen=True)
class Case:
    """A connector, and who connects to it."""

    name: str
    role: str
    spec: dict[str, Any]
    grants: tuple[tuple[str, str, bool], ...]
    """(principal, permission, deny)."""
    principal: str

    def permissions(self, principals: set[str]) -> set[str]:
        """Union of what is allowed, less what is denied (spec.md 1.6)."""
        mine = [(permission, deny) for principal, permission, deny in self.grants if principal in principals]
        return {permission for permission, deny in mine if not deny} - {p for p, deny in mine if deny}


def members(principal: str) -> set[str]:
    return {principal, "AuthenticatedUsers"} if principal.startswith("user:") else {principal}


def _of_groups(groups: list[str], role: str) -> tuple[tuple[str, str, bool], ...]:
    return tuple(
        (principal, permission, False)
        for group in groups
        if role == "hub" or group not in HUB_ONLY
        for principal in GROUPS[group][0]
        for permission in GROUPS[group][1]
    )


def cases() -> Iterator[Case]:
    """Group by role by principal, usage by role by principal, explicit grant by principal."""
    for role in ("hub", "edge"):
        for principal in PRINCIPALS:
            for group in GROUPS:
                if role == "hub" or group not in HUB_ONLY:
                    spec = {"permissionGroups": [group]}
                    yield Case(f"{group}/{role}/{principal}", role, spec, _of_groups([group], role), principal)
            for usage, groups in USAGES.items():
                yield Case(
                    f"usage {usage}/{role}/{principal}", role, {"usage": usage}, _of_groups(groups, role), principal
                )
    yield from _explicit()


def _explicit() -> Iterator[Case]:
    """Each permission allowed besides SMTP-Submit, and each denied to one who would have all."""
    for principal in PRINCIPALS:
        for granted in (principal, "AuthenticatedUsers") if principal.startswith("user:") else (principal,):
            for permission in ALL:
                allow = ((granted, SUBMIT, False), (granted, permission, False))
                deny = (*((granted, each, False) for each in ALL), (principal, permission, True))
                for word, grants in (("allow", allow), ("deny", deny)):
                    spec = {"permissionGroups": [], "grants": [_entry(*grant) for grant in grants]}
                    yield Case(f"{word} {permission} to {granted}/{principal}", "hub", spec, grants, principal)


def _entry(principal: str, permission: str, deny: bool) -> dict[str, Any]:
    return {"principal": principal, "permissions": [permission], "effect": "Deny" if deny else "Allow"}


OWN, COLLEAGUE, OUTSIDE = "alice@example.com", "bob@example.com", "x@elsewhere.example"
BIG = 1_000_000
SIZE_LIMIT = "64Ki"
HEADERS = {
    "Received": "from forged.example",
    "X-MS-Exchange-Organization-SCL": "-1",
    "X-MS-Exchange-Forest-Id": "7",
    "X-MS-Exchange-Organization-AuthAs": "External",
}

NOT_AUTHENTICATED = "530 5.7.1 Client was not authenticated"
MAY_NOT_LOG_IN = "535 5.7.3 Authentication unsuccessful"
MAY_NOT_SUBMIT = "550 5.7.1 Client does not have permission to submit to this server"
NOT_AS_SENDER = "550 5.7.1 Client does not have permission to send as this sender"
NOT_ON_BEHALF = "550 5.7.1 Client does not have permission to send on behalf of the from address"
NO_RELAY = "550 5.7.1 Unable to relay"
TOO_BIG = "552 5.3.4 Message size exceeds fixed maximum message size"
NO_EXCH50 = "504 5.7.1 Need to authenticate first"
OK = "2xx"


def expected(case: Case) -> dict[str, object]:
    """Return what must be observed, by probe (spec.md 1.1 and 1.7)."""
    found: dict[str, object] = {}
    who = case.principal
    held = case.permissions(members(who))
    if who.startswith("user:"):
        found["login"] = OK if SUBMIT in held else MAY_NOT_LOG_IN
        if SUBMIT not in held:
            who, held = "Anonymous", case.permissions({"Anonymous"})
    user = who.startswith("user:")
    found["offers XEXCH50"] = EXCH50 in held
    if SUBMIT not in held:
        refusal = NOT_AUTHENTICATED if who == "Anonymous" else MAY_NOT_SUBMIT
        return found | {"mail": refusal, "mail inside": refusal, "mail own": refusal}
    found["mail"] = OK if ANY_SENDER in held or not user else NOT_AS_SENDER
    inside = AUTHORITATIVE in held and (ANY_SENDER in held or not user)
    found["mail inside"] = OK if inside else NOT_AS_SENDER
    found["mail own"] = OK if user or AUTHORITATIVE in held else NOT_AS_SENDER
    found["mail size"] = OK if BYPASS_SIZE in held else TOO_BIG
    found["rcpt inside"] = OK
    found["rcpt outside"] = OK if ANY_RCPT in held else NO_RELAY
    found["exch50"] = OK if EXCH50 in held else NO_EXCH50
    found["from outside"] = OK if ANY_SENDER in held or not user else NOT_ON_BEHALF
    found["from inside"] = OK if ANY_SENDER in held or (AUTHORITATIVE in held and not user) else NOT_ON_BEHALF
    found["kept"] = {
        name for name, permission in zip(HEADERS, (ROUTING, ORG, FOREST), strict=False) if permission in held
    }
    found["AuthAs"] = "External" if FLAG in held else _session_auth_as(who)
    return found


def _session_auth_as(who: str) -> str:
    if who == "PartnerServers":
        return "Partner"
    return "Anonymous" if who in ("Anonymous", "EdgeTransportServers") else "Internal"
