"""EXTERNAL (RFC 4422 appendix A): the client's TLS certificate says who it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from postroad_transport.auth.accounts import Account, AuthUnavailableError
from postroad_transport.auth.addresses import addresses
from postroad_transport.auth.exchange import Accepted, Channel, Rejected
from postroad_transport.auth.names import is_usable
from postroad_transport.auth.sasl import MALFORMED, Challenge, SaslError
from postroad_transport.config import CertificateField, ClientCertificates, TlsTrust
from postroad_transport.policy.certificate import thumbprint
from postroad_transport.policy.proof import Flaw, PeerProof

Judge = Callable[[Sequence[bytes], TlsTrust], Awaitable[PeerProof]]
"""Says what a client's certificates (DER, its own first) prove to who believes as given. Never raises."""


class External:
    """One run of EXTERNAL.

    Parameters
    ----------
    certificates
        Which certificates are whose.
    judge
        Checks chain, times and revocation.
    """

    def __init__(self, certificates: ClientCertificates, channel: Channel, judge: Judge) -> None:
        self._certificates = certificates
        self._chain = channel.client_chain
        self._judge = judge

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """See :meth:`Exchange.step`."""
        if response is None:
            return Challenge(b"")
        if not self._chain:
            return Rejected("", str(Flaw.NO_CERTIFICATE))
        proof = await self._judge(self._chain, self._certificates.trust)
        if proof.flaw is Flaw.NO_CRL:
            raise AuthUnavailableError(proof.detail)
        if proof.flaw is not None:
            return Rejected("", str(proof.flaw))
        account = account_of(self._chain[0], self._certificates)
        if account is None:
            return Rejected("", "no_account")
        try:
            identity = response.decode("utf-8")
        except UnicodeDecodeError:
            raise SaslError(MALFORMED) from None
        if identity and identity.lower() != account.name.lower():
            # Nobody may act as somebody else.
            return Rejected(account.name, "authorization_identity")
        return Accepted(account)


def account_of(certificate: bytes, certificates: ClientCertificates) -> Account | None:
    """Return the account of a certificate (DER) that is valid, None where it has none.

    A listed account comes first. Else the certificate names it by the first field in ``account_from`` that it has;
    its e-mail addresses are then the account's own.
    """
    names = _names(certificate)
    for entry in certificates.accounts:
        if entry.value in (name.lower() for name in names[entry.field]):
            return Account(entry.account, entry.addresses)
    for field in certificates.account_from:
        if names[field]:
            return Account(names[field][0], names[CertificateField.EMAIL])
    return None


def _names(certificate: bytes) -> dict[CertificateField, tuple[str, ...]]:
    leaf = x509.load_der_x509_certificate(certificate)
    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        alternatives = x509.SubjectAlternativeName([])
    common = [str(attribute.value) for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    # A wildcard is many hosts, and an account is one.
    hosts = [name for name in alternatives.get_values_for_type(x509.DNSName) if "*" not in name]
    return {
        CertificateField.EMAIL: addresses(filter(is_usable, alternatives.get_values_for_type(x509.RFC822Name))),
        CertificateField.DNS_NAME: _plain(map(str.lower, hosts)),
        CertificateField.COMMON_NAME: _plain(common),
        CertificateField.THUMBPRINT: (thumbprint(certificate),),
    }


def _plain(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(filter(is_usable, names))
