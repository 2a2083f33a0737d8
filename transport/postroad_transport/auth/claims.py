"""What the claims of a verified token say about its account. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.addresses import addresses
from postroad_transport.auth.names import is_usable
from postroad_transport.config.directories import OAuth2


def account(claims: Mapping[str, Any], config: OAuth2) -> Account | None:
    """Return the account of a token; None: what names it is missing or not to be believed, or a scope is missing."""
    name = claims.get(config.account_claim)
    if not isinstance(name, str) or not is_usable(name):
        return None
    # OpenID Connect Core 5.1: otherwise nobody has shown that the address is the user's.
    verified = claims.get("email_verified", True) is True
    if config.account_claim == "email" and not verified:
        return None
    if not set(config.required_scopes) <= scopes(claims):
        return None
    listed = _strings(claims.get(config.addresses_claim)) if config.addresses_claim else []
    if config.addresses_claim == "email" and not verified:
        listed = []
    if config.address_template:
        listed = [*listed, config.address_template.replace("{account}", name)]
    # What may be sent as is what the claim and the template say: many issuers let users choose their names.
    return Account(name, addresses(listed), owns_name=False)


def scopes(claims: Mapping[str, Any]) -> set[str]:
    """Return the scopes of a token: ``scope`` (RFC 8693 section 4.2), or ``scp`` as some issuers call it."""
    return {word for claim in ("scope", "scp") for value in _strings(claims.get(claim)) for word in value.split()}


def is_claimed(username: str, account: Account) -> bool:
    """Tell whether `username`, as the client wrote it, stands for the account: its name, or one of its addresses."""
    folded = username.casefold()
    return not username or folded == account.name.casefold() or folded in account.addresses


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
