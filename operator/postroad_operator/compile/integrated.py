"""Kerberos, NTLM and client certificates: their secrets looked over, so that a mistake is told of at once."""

from __future__ import annotations

import re

from postroad_operator.compile.keytab import KeytabError, read_keytab
from postroad_operator.compile.partners import authorities, revocation
from postroad_operator.compile.references import References
from postroad_operator.compile.verdict import Reason, RefusedError
from postroad_operator.resources.base import KeyReference
from postroad_operator.resources.integrated import CertificateAccount, ClientCertificates, Kerberos
from postroad_transport import config
from postroad_transport.config import AuthMechanism, CertificateField, Permission
from postroad_transport.config.files import secret_name
from postroad_transport.policy.principals import LEGACY_SERVERS, effective_permissions

_FIELD = "spec.authentication"
_NT_HASH = re.compile(r"[0-9A-Fa-f]{32}")
#: Encryption types (RFC 3961, RFC 8009) by number that are worth having: AES and Camellia.
_STRONG = frozenset({17, 18, 19, 20, 25, 26})
_CERTIFICATE_FIELDS = {
    "email": CertificateField.EMAIL,
    "dns_name": CertificateField.DNS_NAME,
    "common_name": CertificateField.COMMON_NAME,
    "thumbprint": CertificateField.THUMBPRINT,
}


def compile_kerberos(
    spec: Kerberos, namespace: str, name: str, references: References, files: dict[str, bytes], warnings: list[str]
) -> config.Kerberos:
    """Compile Kerberos of the connector called `name`.

    Raises
    ------
    RefusedError
        There is no keytab, or none with a key of ``smtp/``.
    """
    reference, field = spec.keytab_secret_ref, f"{_FIELD}.kerberos.keytabSecretRef"
    content = references.secret(namespace, reference.name, reference.key, field)
    try:
        keys = read_keytab(content)
    except KeytabError as error:
        raise RefusedError(Reason.INVALID_REF, f"{field}: {error}: make it with kadmin, ktutil or ktpass") from error
    own = [key for key in keys if key.principal.lower().startswith("smtp/")]
    if not own:
        found = ", ".join(sorted({f"{key.principal}@{key.realm}" for key in keys})[:5]) or "no key"
        raise RefusedError(
            Reason.INVALID_REF,
            f"{field}: holds {found}, but nothing of smtp/: add keys of smtp/ and the name that clients dial",
        )
    if not any(key.encryption_type in _STRONG for key in own):
        warnings.append(f"{field}: the keys of smtp/ are all of weak types, which are not taken: add one of AES")
    file = secret_name("keytab", name, content, "keytab")
    files[file] = content
    return config.Kerberos(
        keytab_file=file,
        realms=tuple(spec.realms),
        address_template=spec.address_template or "",
        legacy_servers=tuple(spec.legacy_servers),
    )


def compile_nt_hashes(
    reference: KeyReference,
    namespace: str,
    name: str,
    references: References,
    files: dict[str, bytes],
    warnings: list[str],
) -> str:
    """Return the secret file with the NT hashes.

    Raises
    ------
    RefusedError
        There is no such Secret, or it holds no usable line.
    """
    field = f"{_FIELD}.ntlmSecretRef"
    content = references.secret(namespace, reference.name, reference.key, field)
    warnings += _check_nt_hashes(content, field)
    file = secret_name("nthashes", name, content, "txt")
    files[file] = content
    return file


def compile_client_certificates(
    spec: ClientCertificates, namespace: str, references: References
) -> config.ClientCertificates:
    """Compile the accounts of client certificates.

    Raises
    ------
    RefusedError
        There are no CA certificates.
    """
    field = f"{_FIELD}.clientCertificates"
    trust = config.TlsTrust(
        authorities=authorities(
            spec.ca_bundle_config_map_ref, namespace, f"{field}.caBundleConfigMapRef", references
        ),
        system=False,
        revocation=revocation(spec.revocation, namespace, f"{field}.revocation", references),
    )
    return config.ClientCertificates(
        trust=trust,
        account_from=tuple(CertificateField(item) for item in spec.account_from),
        accounts=tuple(_account(entry) for entry in spec.accounts),
    )


def surprises(part: config.ReceiveConnector) -> list[str]:
    """Return what of these will work as written but not as its author may expect."""
    warnings, accounts = [], part.authentication
    offered = AuthMechanism.INTEGRATED in part.auth_mechanisms
    if offered and not accounts.has_integrated:
        warnings.append("spec.authMechanisms: Integrated offers nothing: give kerberos or ntlmSecretRef")
    legacy = accounts.kerberos.legacy_servers if accounts.kerberos else ()
    if accounts.has_integrated and not offered and (accounts.nt_hashes_file or not legacy):
        warnings.append(f"{_FIELD}: NTLM and GSSAPI are not offered: add Integrated to authMechanisms")
    if legacy:
        warnings += _legacy_surprises(part)
    if offered and accounts.nt_hashes_file and not part.require_tls:
        warnings.append(
            f"{_FIELD}.ntlmSecretRef: whoever listens to NTLM in clear can guess passwords at leisure: set requireTLS"
        )
    tls = AuthMechanism.TLS in part.auth_mechanisms
    if accounts.client_certificates is not None and not (
        tls and any(binding.tls is not config.TlsMode.OFF for binding in part.bindings)
    ):
        warnings.append(f"{_FIELD}.clientCertificates: none is asked for without TLS: add TLS to authMechanisms")
    return warnings


def _legacy_surprises(part: config.ReceiveConnector) -> list[str]:
    field = f"{_FIELD}.kerberos.legacyServers"
    if AuthMechanism.EXCHANGE_SERVER not in part.auth_mechanisms:
        return [f"{field}: X-EXPS is not offered: add ExchangeServer to authMechanisms"]
    if Permission.SUBMIT not in effective_permissions(part.grants, LEGACY_SERVERS):
        return [
            f"{field}: they may not submit mail here: give LegacyExchangeServers SMTP-Submit, by permissionGroups or"
            " by grants"
        ]
    return []


def _check_nt_hashes(content: bytes, field: str) -> list[str]:
    """Return a warning for each line that cannot be used; nothing is quoted, for any Secret may be referred to."""
    warnings: list[str] = []
    users: dict[str, int] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        user, *rest = text.split(":")
        encoded = rest[2] if len(rest) >= 4 and _NT_HASH.fullmatch(rest[2]) else rest[0] if rest else ""
        if not user or not _NT_HASH.fullmatch(encoded):
            warnings.append(f"{field}: line {number} is passed over: not user:NTHASH")
        elif user.casefold() in users:
            warnings.append(f"{field}: line {number} is passed over: the user of line {users[user.casefold()]} again")
        else:
            users[user.casefold()] = number
    if not users:
        raise RefusedError(Reason.INVALID_REF, f"{field}: holds no usable account: write lines such as alice:NTHASH")
    return warnings


def _account(entry: CertificateAccount) -> config.CertificateAccount:
    name = next(name for name in _CERTIFICATE_FIELDS if getattr(entry, name) is not None)
    value: str = getattr(entry, name).lower()
    return config.CertificateAccount(
        field=_CERTIFICATE_FIELDS[name],
        value=value.replace(":", "") if name == "thumbprint" else value,
        account=entry.account,
        addresses=tuple(address.lower() for address in entry.addresses),
    )
