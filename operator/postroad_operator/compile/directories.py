"""LDAP, OAuth 2 and service accounts of a receive connector: URLs taken apart, references resolved."""

from __future__ import annotations

import json

from cryptography import x509

from postroad_operator.compile.references import References
from postroad_operator.compile.verdict import Reason, RefusedError
from postroad_operator.resources.base import KeyReference
from postroad_operator.resources.directories import Ldap, OAuth2, ServiceAccounts, filter_fault, split_url
from postroad_operator.resources.scalars import host, seconds
from postroad_transport.config import directories as config
from postroad_transport.config.files import secret_name

_FIELD = "spec.authentication"


def compile_ldap(
    spec: Ldap, namespace: str, name: str, references: References, files: dict[str, bytes], warnings: list[str]
) -> config.Ldap:
    """Compile one directory; adds the secret file that it needs, and what may surprise.

    Raises
    ------
    RefusedError
        The filter is none, a reference is missing, or what it holds cannot be used.
    """
    field = f"{_FIELD}.ldap"
    if fault := filter_fault(spec.filter):
        raise RefusedError(Reason.INVALID, f"{field}.filter: {fault}")
    credentials_file = ""
    if spec.bind_dn is not None and (reference := spec.bind_password_secret_ref) is not None:
        place = f"{field}.bindPasswordSecretRef"
        password = references.secret(namespace, reference.name, reference.key, place)
        content = _credentials(spec.bind_dn, password, place)
        credentials_file = secret_name("ldap", name, content, "json")
        files[credentials_file] = content
    if seconds(spec.operation_timeout) > seconds(spec.timeout):
        warnings.append(f"{field}.timeout: is over before operationTimeout: no second server is ever tried")
    servers = tuple(_server(url, clear=spec.allow_cleartext) for url in spec.urls)
    if spec.allow_cleartext:
        warnings.append(
            f"{field}.allowCleartext: passwords cross the network in clear"
            if any(server.tls is config.LdapTls.CLEAR for server in servers)
            else f"{field}.allowCleartext: not needed: every server is asked by ldaps: remove it"
        )
    return config.Ldap(
        servers=servers,
        base_dn=spec.base_dn,
        scope=config.LdapScope(spec.scope),
        filter=spec.filter,
        account_attribute=spec.account_attribute,
        address_attributes=tuple(spec.address_attributes),
        credentials_file=credentials_file,
        ca_bundle=_ca_bundle(spec.ca_bundle_config_map_ref, namespace, references, field),
        connect_timeout=seconds(spec.connect_timeout),
        operation_timeout=seconds(spec.operation_timeout),
        timeout=seconds(spec.timeout),
        connections=spec.connections,
    )


def compile_oauth2(spec: OAuth2, namespace: str, references: References) -> config.OAuth2:
    """Compile one issuer. Raises RefusedError."""
    return config.OAuth2(
        issuer=spec.issuer,
        jwks_url=spec.jwks_url or "",
        audiences=tuple(spec.audiences),
        algorithms=tuple(spec.algorithms),
        account_claim=spec.account_claim,
        addresses_claim=spec.addresses_claim,
        address_template=spec.address_template or "",
        required_scopes=tuple(spec.required_scopes),
        leeway=seconds(spec.leeway),
        ca_bundle=_ca_bundle(spec.ca_bundle_config_map_ref, namespace, references, f"{_FIELD}.oauth2"),
        timeout=seconds(spec.timeout),
    )


def compile_service_accounts(spec: ServiceAccounts) -> config.ServiceAccounts:
    """Compile who may log in with a service account's token."""
    return config.ServiceAccounts(
        audience=spec.audience,
        allow=tuple(
            config.ServiceAccount(
                namespace=entry.namespace,
                name=entry.name,
                addresses=tuple(dict.fromkeys(address.lower() for address in entry.addresses)),
            )
            for entry in spec.allow
        ),
    )


def _server(url: str, *, clear: bool) -> config.LdapServer:
    parts = split_url(url)
    if parts is None or parts.hostname is None:
        raise RefusedError(Reason.INVALID, f"{_FIELD}.ldap.urls: {url!r} is no URL of a directory")
    if parts.scheme == "ldaps":
        tls, port = config.LdapTls.LDAPS, 636
    else:
        tls, port = config.LdapTls.CLEAR if clear else config.LdapTls.STARTTLS, 389
    return config.LdapServer(host=host(parts.hostname), port=parts.port or port, tls=tls)


def _credentials(bind_dn: str, password: bytes, field: str) -> bytes:
    try:
        text = password.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise RefusedError(Reason.INVALID_REF, f"{field}: the password must be UTF-8 text") from None
    if not text:
        # A server would take that for an anonymous bind and agree (RFC 4513 section 5.1.2).
        raise RefusedError(Reason.INVALID_REF, f"{field}: the password is empty: write it into the Secret")
    return json.dumps({"username": bind_dn, "password": text}, ensure_ascii=False).encode()


def _ca_bundle(reference: KeyReference | None, namespace: str, references: References, field: str) -> str:
    if reference is None:
        return ""
    field = f"{field}.caBundleConfigMapRef"
    bundle = references.config_map(namespace, reference.name, reference.key, field)
    try:
        x509.load_pem_x509_certificates(bundle.encode())
    except ValueError:
        raise RefusedError(
            Reason.INVALID_REF, f"{field}: ConfigMap {reference.name} key {reference.key} holds no PEM certificate"
        ) from None
    return bundle
