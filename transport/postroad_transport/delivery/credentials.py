"""What to log in at smart hosts with: from a secret file, and from an issuer of access tokens where one is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from postroad_transport.config import SendConnector
from postroad_transport.config.files import ConfigError
from postroad_transport.delivery.smtp_login import Credentials

if TYPE_CHECKING:
    from postroad_transport.delivery.access_token import AccessTokens

S = TypeVar("S", bound=msgspec.Struct)


class CredentialSource:
    """The credentials of one send connector.

    Parameters
    ----------
    connector
        None: there are none.
    read_secret
        Returns the content of a secret file; raises ConfigError or KeyError.
    """

    def __init__(self, connector: SendConnector | None, read_secret: Callable[[str], bytes]) -> None:
        self._file = connector.credentials_file if connector is not None else ""
        self._endpoint = connector.tokens if connector is not None else None
        self._read_secret = read_secret
        self._tokens: AccessTokens | None = None

    async def get(self) -> Credentials:
        """Return credentials.

        Raises
        ------
        ConfigError
            There are none, or none can be had for now; the message holds nothing secret.
        """
        if self._endpoint is None:
            return self._read(Credentials, "username and password or accessToken")
        # Loaded where it is needed: an HTTP client takes its time.
        from postroad_transport.delivery.access_token import AccessTokens, OAuthClient

        client = self._read(OAuthClient, "username and clientId")
        self._tokens = self._tokens or AccessTokens(self._endpoint)
        return Credentials(username=client.username, access_token=await self._tokens.token(client))

    def refused(self) -> None:
        """Take note that they were refused: a new token is asked for next time."""
        if self._tokens is not None:
            self._tokens.forget()

    async def close(self) -> None:
        """Let go of connections."""
        if self._tokens is not None:
            await self._tokens.close()

    def _read(self, kind: type[S], needed: str) -> S:
        if not self._file:
            raise ConfigError("the send connector names none")
        try:
            return msgspec.json.decode(self._read_secret(self._file), type=kind)
        except KeyError:
            raise ConfigError(f"{self._file}: no such secret file") from None
        except msgspec.MsgspecError:
            raise ConfigError(f"{self._file}: not JSON with {needed}") from None
