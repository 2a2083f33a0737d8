"""The SASL mechanisms of one connector, built from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from postroad_transport.auth.accounts import parse_accounts
from postroad_transport.auth.bearer import PARSERS, BearerExchange
from postroad_transport.auth.directories import password_sources, token_sources
from postroad_transport.auth.exchange import Channel, Exchange, TokenSource
from postroad_transport.auth.external import External, Judge
from postroad_transport.auth.integrated import integrated_mechanisms
from postroad_transport.auth.password_sources import PasswordSources
from postroad_transport.auth.password_verifier import PasswordVerifier
from postroad_transport.auth.plain import Login, Plain
from postroad_transport.auth.sasl import UNKNOWN_MECHANISM, SaslError
from postroad_transport.auth.scram import Scram
from postroad_transport.auth.sources import Lease
from postroad_transport.config import ReceiveConnector
from postroad_transport.telemetry.metrics import Metrics

Begin = Callable[[Channel], Exchange]
"""Starts an exchange on a channel."""


class Authenticator:
    """Starts exchanges by mechanism name. False where there is none.

    Parameters
    ----------
    mechanisms
        By name, in the order in which EHLO lists them.
    problems
        One sentence for each part of a source that cannot be used.
    lease
        What the mechanisms' sources are kept alive by.
    """

    def __init__(
        self, mechanisms: Mapping[str, Begin], *, problems: tuple[str, ...] = (), lease: Lease | None = None
    ) -> None:
        self._mechanisms = dict(mechanisms)
        self.problems = problems
        self._lease = lease

    def __bool__(self) -> bool:
        return bool(self._mechanisms)

    @property
    def names(self) -> tuple[str, ...]:
        """The mechanisms, in the order in which they are offered."""
        return tuple(self._mechanisms)

    def begin(self, name: str, channel: Channel) -> Exchange:
        """Start an exchange of the mechanism called `name` (upper-case).

        Raises
        ------
        SaslError
            504: there is no such mechanism.
        """
        begin = self._mechanisms.get(name)
        if begin is None:
            raise SaslError(UNKNOWN_MECHANISM)
        return begin(channel)


def build(
    connector: ReceiveConnector,
    read_secret: Callable[[str], bytes],
    lease: Lease,
    metrics: Metrics | None = None,
    *,
    judge: Judge | None = None,
) -> Authenticator:
    """Make the mechanisms of `connector`; which of them a session is offered is up to ``policy.authentication``.

    Parameters
    ----------
    read_secret
        Returns the content of a secret file by its name; raises ConfigError.
    judge
        Checks client certificates; without it there is no EXTERNAL.

    Raises
    ------
    ConfigError
        A secret file cannot be read.
    """
    config = connector.authentication
    mechanisms: dict[str, Begin]
    mechanisms, problems = integrated_mechanisms(connector, read_secret, lease)
    if (certificates := config.client_certificates) is not None and judge is not None:
        mechanisms["EXTERNAL"] = lambda channel: External(certificates, channel, judge)
    accounts = None
    if config.accounts_file:
        # One for all connectors, so that a reload keeps its threads and what it remembers.
        verifier = lease.use("passwords", lambda: PasswordVerifier(metrics))
        accounts = parse_accounts(read_secret(config.accounts_file), verifier=verifier)
    directories = password_sources(config, read_secret, lease, metrics)
    if accounts is not None and accounts.have_scram_keys:
        keys = accounts.scram_keys
        mechanisms["SCRAM-SHA-256-PLUS"] = lambda channel: Scram(keys, channel, plus=True)
        mechanisms["SCRAM-SHA-256"] = lambda channel: Scram(keys, channel, plus=False)
    if accounts is not None or directories:
        passwords = PasswordSources(accounts, directories)
        mechanisms["PLAIN"] = lambda channel: Plain(passwords.asked_on(channel))
        mechanisms["LOGIN"] = lambda channel: Login(passwords.asked_on(channel))
    if tokens := token_sources(config, lease, metrics):
        scopes = config.oauth2.required_scopes if config.oauth2 is not None else ()
        discovery = config.oauth2.configuration_url if config.oauth2 is not None else ""
        for name in PARSERS:
            mechanisms[name] = partial(_begin_bearer, name, tokens, scopes, discovery)
    problems += accounts.problems if accounts else ()
    return Authenticator(mechanisms, problems=problems, lease=lease)


def _begin_bearer(
    name: str, sources: Sequence[TokenSource], scopes: Sequence[str], configuration_url: str, _: Channel
) -> Exchange:
    return BearerExchange(name, sources, scopes=scopes, configuration_url=configuration_url)
