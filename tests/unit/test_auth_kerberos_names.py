"""What the principal of a Kerberos ticket may send as; without Kerberos."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.exchange import Accepted, Rejected
from postroad_transport.auth.kerberos import Gssapi, KerberosService

SERVICE = "smtp/mail.example@MAIL.EXAMPLE"


class Tickets:
    """Takes every ticket for `client`'s."""

    account = KerberosService.account

    def __init__(self, client: str) -> None:
        self._realms = frozenset()
        self._acceptor = SimpleNamespace(
            step=lambda token: (b"", True),
            names=lambda: (f"{client}@MAIL.EXAMPLE", SERVICE),
            offer=lambda *, overheard: b"offer",
            choice=lambda token: b"\x01\0\0\0",
        )

    async def call(self, step):
        return step()

    def accept(self):
        return self._acceptor


async def login(client: str, template: str):
    exchange = Gssapi(Tickets(client), tls=True, address_template=template)
    await exchange.step(b"ticket")
    return await exchange.step(b"choice")


@pytest.mark.parametrize(
    ("client", "template", "account"),
    [
        ("Alice", "{account}@mail.example", Account("Alice", ("alice@mail.example",))),
        ("alice", "", Account("alice")),
        ("*", "{account}@mail.example", Account("*", owns_name=False)),
        ("a,b", "{account}@mail.example", Account("a,b", owns_name=False)),
    ],
)
async def test_a_principal_owns_one_address_and_never_a_whole_domain(client, template, account):
    assert await login(client, template) == Accepted(account)


async def test_a_principal_cannot_be_a_service_account():
    assert await login("system:serviceaccount:prod:billing", "") == Rejected(
        "system:serviceaccount:prod:billing@MAIL.EXAMPLE", "realm"
    )
