"""The directories and issuers of one connector, made from its configuration or taken over from the last.

What a source needs beyond the standard library is imported only where one is configured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from postroad_transport.auth.exchange import PasswordSource, TokenSource
from postroad_transport.auth.lookups import Lookups
from postroad_transport.auth.sources import Lease
from postroad_transport.config import Authentication
from postroad_transport.config.directories import Ldap, OAuth2, ServiceAccounts
from postroad_transport.config.files import ConfigError
from postroad_transport.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from postroad_transport.auth.service_accounts import ServiceAccountSource


def password_sources(
    config: Authentication, read_secret: Callable[[str], bytes], lease: Lease, metrics: Metrics | None
) -> list[PasswordSource]:
    """Return what checks passwords beside the htpasswd lines, in the order in which they are asked.

    Raises
    ------
    ConfigError
        A secret file or a CA bundle cannot be used.
    """
    sources: list[PasswordSource] = []
    if config.service_accounts is not None:
        # First, because only this one knows at sight what is not for it.
        sources.append(_service_accounts(config.service_accounts, lease, metrics))
    if config.ldap is not None:
        sources.append(_ldap(config.ldap, read_secret, lease, metrics))
    return sources


def token_sources(config: Authentication, lease: Lease, metrics: Metrics | None) -> list[TokenSource]:
    """Return what knows bearer tokens, in the order in which they are asked."""
    sources: list[TokenSource] = []
    if config.service_accounts is not None:
        sources.append(_service_accounts(config.service_accounts, lease, metrics))
    if config.oauth2 is not None:
        sources.append(_oauth2(config.oauth2, lease, metrics))
    return sources


def _ldap(config: Ldap, read_secret: Callable[[str], bytes], lease: Lease, metrics: Metrics | None) -> PasswordSource:
    from postroad_transport.auth.ldap import LdapSource
    from postroad_transport.auth.ldap_session import Credentials

    try:
        credentials = (
            Credentials.read(read_secret(config.credentials_file)) if config.credentials_file else Credentials()
        )
        return lease.use(("ldap", config), lambda: LdapSource(config, credentials, metrics))
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError("ldap: the credentials file or the CA bundle cannot be used") from error


def _oauth2(config: OAuth2, lease: Lease, metrics: Metrics | None) -> TokenSource:
    from postroad_transport.auth.oauth2 import OAuth2Source

    return lease.use(("oauth2", config), lambda: OAuth2Source(config, lookups=Lookups("oauth2", metrics)))


def _service_accounts(config: ServiceAccounts, lease: Lease, metrics: Metrics | None) -> ServiceAccountSource:
    from postroad_transport.auth.service_accounts import ServiceAccountSource
    from postroad_transport.auth.token_review import ApiServer, TokenReviewer

    def make() -> ServiceAccountSource:
        api = ApiServer.of_pod()
        reviewer = TokenReviewer(api) if api is not None else None
        return ServiceAccountSource(config, reviewer, lookups=Lookups("serviceAccounts", metrics))

    return lease.use(("serviceAccounts", config), make)
