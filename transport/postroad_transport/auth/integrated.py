"""Windows' mechanisms (spec.md 2.1): NTLM and GSSAPI of ``Integrated``, X-EXPS GSSAPI of ``ExchangeServer``.

Each is there where somebody can be known by it.
"""

from __future__ import annotations

from collections.abc import Callable

from postroad_transport.auth.exchange import Channel, Exchange
from postroad_transport.auth.sources import Lease
from postroad_transport.config import AuthMechanism, ReceiveConnector
from postroad_transport.config.files import ConfigError
from postroad_transport.policy.authentication import EXPS_GSSAPI, legacy_servers


def integrated_mechanisms(
    connector: ReceiveConnector, read_secret: Callable[[str], bytes], lease: Lease
) -> tuple[dict[str, Callable[[Channel], Exchange]], tuple[str, ...]]:
    """Return the mechanisms by name in the order in which EHLO lists them, and what cannot be used of their accounts.

    Raises
    ------
    ConfigError
        A secret file cannot be read. A missing library for Kerberos is only a problem: the rest is served.
    """
    mechanisms: dict[str, Callable[[Channel], Exchange]] = {}
    problems: tuple[str, ...] = ()
    config = connector.authentication
    integrated, servers = AuthMechanism.INTEGRATED in connector.auth_mechanisms, legacy_servers(connector)
    if integrated and config.nt_hashes_file:
        from postroad_transport.auth.ntlm import Ntlm, parse_nt_accounts

        hashes = parse_nt_accounts(read_secret(config.nt_hashes_file))
        problems = hashes.problems
        mechanisms["NTLM"] = lambda channel: Ntlm(hashes, channel, connector.fqdn)
    if (kerberos := config.kerberos) and (integrated or servers):
        from postroad_transport.auth.kerberos import Gssapi, KerberosService, load

        try:
            load()
        except ConfigError as error:
            return mechanisms, (*problems, str(error))
        service = lease.use(
            ("kerberos", kerberos), lambda: KerberosService(read_secret(kerberos.keytab_file), kerberos.realms)
        )
        if integrated:
            mechanisms["GSSAPI"] = lambda channel: Gssapi(
                service, tls=channel.tls, address_template=kerberos.address_template
            )
        if servers:
            mechanisms[EXPS_GSSAPI] = lambda channel: Gssapi(service, tls=channel.tls, servers=servers)
    return mechanisms, problems
