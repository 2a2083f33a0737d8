"""AcceptedDomain: a domain the tier takes mail for, and where that mail goes."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from postroad_operator.resources.base import KeyReference, Model, Resource, Status
from postroad_operator.resources.rules import Checked, Rule
from postroad_operator.resources.scalars import DomainName, Host, ObjectName, Port, ShortText, StrictBool
from postroad_operator.resources.send_connector import Lmtp
from postroad_operator.resources.tier import TIER_IS_IMMUTABLE

_PLACEHOLDERS = re.compile(r"\{(local|domain)\}")


def _safe_template(path: str) -> bool:
    """Tell whether a Maildir path holds only known placeholders and cannot leave its directory."""
    plain = _PLACEHOLDERS.sub("", path)
    return not set("{}\0") & set(plain) and ".." not in path.split("/")


MaildirPath = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Checked(
        (
            Rule(
                "the path may hold {local} and {domain}, and no other braces and no ..",
                r"!self.matches('(^|/)[.][.](/|$)') && "
                r"!self.replace('{local}', '').replace('{domain}', '').matches('[{}]')",
                _safe_template,
            ),
        )
    ),
]


class Maildir(Model):
    """Deliver to Maildirs."""

    path: MaildirPath
    """Directory, relative to the state directory. {local} and {domain} stand for the recipient's parts."""


class SmtpHost(Model):
    """Deliver to an SMTP host (an internal mailbox server)."""

    host: Host
    """Name or IP address."""
    port: Port = 25
    """TCP port."""


class Deliver(Model):
    """Where mail for the domain goes: exactly one target."""

    RULES: ClassVar = (
        Rule(
            "give exactly one of maildir, lmtp and smtp",
            "[has(self.maildir), has(self.lmtp), has(self.smtp)].filter(x, x).size() == 1",
            lambda d: sum(target is not None for target in (d.maildir, d.lmtp, d.smtp)) == 1,
        ),
    )

    maildir: Maildir | None = None
    """Maildirs on the tier's own disk."""
    lmtp: Lmtp | None = None
    """A mailbox server that speaks LMTP, such as Dovecot."""
    smtp: SmtpHost | None = None
    """A mailbox server that speaks SMTP."""


class Recipients(Model):
    """The recipients that exist: exactly one source. Others are refused with 550 5.1.1."""

    RULES: ClassVar = (
        Rule(
            "give exactly one of list and configMapRef",
            "has(self.list) != has(self.configMapRef)",
            lambda r: (r.names is None) != (r.config_map_ref is None),
        ),
    )

    names: list[Annotated[str, Field(min_length=1, max_length=320)]] | None = Field(
        default=None, max_length=10_000, alias="list"
    )
    """Local parts, or addresses in the domain."""
    config_map_ref: KeyReference | None = None
    """ConfigMap key with one local part or address a line; # begins a comment."""


class AcceptedDomainSpec(Model):
    """The domain, and where its mail goes."""

    RULES: ClassVar = (
        TIER_IS_IMMUTABLE,
        Rule(
            "aliasOf sends the domain's mail where the other domain's goes: remove deliver and recipients",
            "!has(self.aliasOf) || (!has(self.deliver) && !has(self.recipients))",
            lambda s: s.alias_of is None or (s.deliver is None and s.recipients is None),
            "aliasOf",
        ),
        Rule(
            "an alias cannot be the default domain: set default on the domain it stands for",
            "!has(self.aliasOf) || !self.default",
            lambda s: s.alias_of is None or not s.default,
            "default",
        ),
        Rule(
            "a domain cannot be an alias of itself",
            "!has(self.aliasOf) || self.aliasOf.lowerAscii() != self.domain.lowerAscii()",
            lambda s: s.alias_of is None or s.alias_of.lower() != s.domain.lower(),
            "aliasOf",
        ),
    )

    tier: ObjectName = "default"
    """Name of the tier that takes mail for this domain."""
    domain: DomainName
    """The domain."""
    match_subdomains: StrictBool = False
    """Take mail for all its subdomains as well."""
    type: Literal["Authoritative", "InternalRelay", "ExternalRelay"] = "Authoritative"
    """Authoritative: the mailboxes are ours. InternalRelay: some are. ExternalRelay: none are, we pass it on."""
    default: StrictBool = False
    """The domain of addresses that have none, such as <postmaster>. One per tier."""
    alias_of: DomainName | None = None
    """Another accepted domain: mail for id@domain is delivered as id@aliasOf."""
    deliver: Deliver | None = None
    """Where its mail goes. Not given: by send connector."""
    recipients: Recipients | None = None
    """Recipients that exist. Not given: all are taken."""


class AcceptedDomain(Resource):
    """An AcceptedDomain is a domain that the tier takes mail for."""

    kind: Literal["AcceptedDomain"] = "AcceptedDomain"
    spec: AcceptedDomainSpec


class AcceptedDomainStatus(Status):
    """What the operator has observed of an accepted domain."""

    route: ShortText = ""
    """Where the domain's mail goes, for the table."""
