"""The addresses of an account, as a directory or a token tells them."""

from __future__ import annotations

from collections.abc import Iterable

_SMTP = "smtp:"


def addresses(values: Iterable[str]) -> tuple[str, ...]:
    """Return what can be an account's own address, lower-case, each once, in order.

    A prefix ``smtp:`` (``proxyAddresses`` of Active Directory) is taken off; values with another prefix (``x500:``,
    ``sip:``), and what is no address, are passed over. So is ``*@example.com``: a whole domain is given in the
    configuration, never by what a user may be able to write into his own entry.
    """
    found: dict[str, None] = {}
    for value in values:
        text = value.strip().lower().removeprefix(_SMTP)
        local, _, domain = text.rpartition("@")
        if not local or not domain or not text.isprintable() or any(character in ' ,:*<>"' for character in text):
            continue
        found[text] = None
    return tuple(found)
