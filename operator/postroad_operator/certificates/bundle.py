"""How issued certificates are kept: private key, chain, and last the authority's root, all PEM."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from postroad_operator.certificates.authority import ISSUER_KEYS
from postroad_operator.certificates.material import (
    CertificateError,
    Material,
    is_self_signed,
    key_pem,
    load_chain,
    load_key,
    pem,
    same_key,
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is kept of one certificate. ``chain`` is leaf first; ``root`` is None where it is not known."""

    chain: tuple[x509.Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes = field(repr=False)
    root: x509.Certificate | None = None

    @property
    def leaf(self) -> x509.Certificate:
        """The server's own certificate."""
        return self.chain[0]

    def encode(self) -> bytes:
        """Return it as it is kept."""
        return key_pem(self.key) + pem(*self.chain) + (pem(self.root) if self.root else b"")

    def material(self, *, trust_pem: bytes = b"", warnings: tuple[str, ...] = ()) -> Material:
        """Return it as it is served."""
        return Material(pem(*self.chain), key_pem(self.key), trust_pem, warnings)


def read_bundle(data: bytes | None) -> Bundle | None:
    """Read what was kept; None if there is nothing, or if it is damaged: what was issued can be issued again."""
    if data is None:
        return None
    try:
        chain, key = load_chain(data), load_key(data)
    except CertificateError:
        return None
    if not isinstance(key, ISSUER_KEYS) or not same_key(key.public_key(), chain[0].public_key()):
        return None
    if len(chain) > 1 and is_self_signed(chain[-1]):
        return Bundle(tuple(chain[:-1]), key, chain[-1])
    return Bundle(tuple(chain), key)
