"""Where the accounts come from that may log in at a receive connector (spec.md 2.1)."""

from __future__ import annotations

from postroad_transport.config.bans import Bans
from postroad_transport.config.directories import Ldap, OAuth2, ServiceAccounts
from postroad_transport.config.integrated import ClientCertificates, Kerberos
from postroad_transport.config.part import Part


class Authentication(Part, frozen=True, kw_only=True):
    """The sources of a connector's accounts. Which of them count is up to the connector's ``auth_mechanisms``."""

    accounts_file: str = ""
    """Secret file with htpasswd lines; empty: none."""
    ldap: Ldap | None = None
    oauth2: OAuth2 | None = None
    service_accounts: ServiceAccounts | None = None
    kerberos: Kerberos | None = None
    nt_hashes_file: str = ""
    """Secret file with NT hashes of passwords, for NTLM; empty: none."""
    client_certificates: ClientCertificates | None = None
    bans: Bans = Bans()

    @property
    def has_passwords(self) -> bool:
        """Whether some source checks passwords: PLAIN and LOGIN."""
        return bool(self.accounts_file) or self.ldap is not None or self.service_accounts is not None

    @property
    def has_tokens(self) -> bool:
        """Whether some source knows bearer tokens: OAUTHBEARER and XOAUTH2."""
        return self.oauth2 is not None or self.service_accounts is not None

    @property
    def has_integrated(self) -> bool:
        """Whether ``Integrated`` has anything to offer: NTLM or GSSAPI."""
        return self.kerberos is not None or bool(self.nt_hashes_file)

    @property
    def has_unlisted(self) -> bool:
        """Whether some source knows accounts that nobody can list beforehand."""
        return self.ldap is not None or self.has_tokens or self.has_integrated or self.client_certificates is not None

    @property
    def has_source(self) -> bool:
        """Whether anybody can log in with anything."""
        return self.has_passwords or self.has_unlisted
