"""The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677).

scramp makes the keys, but its server takes one channel binding, settled before the client has said which it wants,
and knows no ``tls-exporter``, the one that GNU SASL uses under TLS 1.3. A server needs but a few HMACs, so they stand
here.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.exchange import Accepted, Channel, Rejected
from postroad_transport.auth.sasl import MALFORMED, Challenge, SaslError, text
from postroad_transport.auth.scram_keys import ScramKeys

Lookup = Callable[[str], tuple[ScramKeys, Account | None]]
"""Returns a user's keys; for an unknown user, or one without keys, plausible ones that stay the same, and None."""

# gs2-header and client-first-message-bare (RFC 5802 section 7); what follows the nonce are extensions to ignore.
_CLIENT_FIRST = re.compile(
    rb"((?:([ny])|p=([A-Za-z0-9.-]{1,64})),(?:a=([^,]*))?,)(n=([^,]*),r=([\x21-\x2b\x2d-\x7e]+)(?:,.*)?)", re.DOTALL
)
_CLIENT_FINAL = re.compile(rb"c=([A-Za-z0-9+/=]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,.*)?", re.DOTALL)
_ESCAPES = re.compile(rb"=(2C|3D)?")


class Scram:
    """One exchange.

    Parameters
    ----------
    lookup
        Where keys come from; must take the same time for every name.
    channel
        Gives the binding data.
    plus
        Whether the client asked for ``-PLUS``. It is offered on every channel with TLS.
    """

    def __init__(
        self,
        lookup: Lookup,
        channel: Channel,
        *,
        plus: bool,
        nonce: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        self._lookup = lookup
        self._channel = channel
        self._plus = plus
        self._fresh_nonce = nonce
        self._username = ""
        self._reason = ""
        self._nonce = b""
        self._account: Account | None = None
        self._proven: Account | None = None

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """See :meth:`Exchange.step`."""
        if response is None:
            return Challenge(b"")
        if self._proven is not None:
            if response:
                raise SaslError(MALFORMED)
            return Accepted(self._proven)
        return self._final(response) if self._nonce else self._first(response)

    def _first(self, message: bytes) -> Challenge | Rejected:
        match = _CLIENT_FIRST.fullmatch(message)
        if match is None:
            raise SaslError(MALFORMED)
        header, flag, binding, authzid, bare, name, nonce = match.groups()
        self._username = _unescaped(name)
        data = b""
        if binding is not None:
            found = self._channel.binding(binding.decode()) if self._plus else None
            if found is None:
                return Rejected(self._username, "channel_binding_type")
            data = found
        elif self._plus:
            return Rejected(self._username, "channel_binding_missing")
        elif flag == b"y" and self._channel.tls:
            # The client can bind and was not told that the server can: somebody changed the offer on its way.
            return Rejected(self._username, "channel_binding_downgrade")
        if authzid and _unescaped(authzid) != self._username:
            # Nobody may act as somebody else; told only after the password, like everything about a user.
            self._reason = "authorization_identity"
        self._keys, self._account = self._lookup(self._username)
        self._bound = header + data
        self._nonce = nonce + self._fresh_nonce().encode("ascii")
        salt = binascii.b2a_base64(self._keys.salt, newline=False)
        server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._keys.iterations)
        self._exchanged = bare + b"," + server_first + b","
        return Challenge(server_first, username=self._username)

    def _final(self, message: bytes) -> Challenge | Rejected:
        without_proof, _, encoded = message.rpartition(b",p=")
        match = _CLIENT_FINAL.fullmatch(without_proof)
        if match is None:
            raise SaslError(MALFORMED)
        bound, proof = _decoded(match[1]), _decoded(encoded)
        signed = self._exchanged + without_proof
        if not hmac.compare_digest(match[2], self._nonce):
            return Rejected(self._username, "nonce")
        if not hmac.compare_digest(bound, self._bound):
            return Rejected(self._username, "channel_binding")
        signature = hmac.digest(self._keys.stored_key, signed, "sha256")
        if len(proof) != len(signature):
            return Rejected(self._username)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        good = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._keys.stored_key)
        if not good or self._account is None or self._reason:
            return Rejected(self._username, self._reason or "credentials")
        self._proven = self._account
        verifier = hmac.digest(self._keys.server_key, signed, "sha256")
        return Challenge(b"v=" + binascii.b2a_base64(verifier, newline=False))


def _unescaped(name: bytes) -> str:
    """Return a saslname: ``=2C`` stands for a comma, ``=3D`` for an equals sign, no other ``=`` may be there."""
    if any(match[1] is None for match in _ESCAPES.finditer(name)):
        raise SaslError(MALFORMED)
    return text(name.replace(b"=2C", b",").replace(b"=3D", b"="))


def _decoded(encoded: bytes) -> bytes:
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except binascii.Error:
        raise SaslError(MALFORMED) from None
