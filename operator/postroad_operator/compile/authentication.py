"""Where the accounts of a receive connector come from: references resolved, contents checked."""

from __future__ import annotations

from postroad_operator.compile.accounts import check_htpasswd
from postroad_operator.compile.cidrs import cidrs
from postroad_operator.compile.directories import compile_ldap, compile_oauth2, compile_service_accounts
from postroad_operator.compile.exposure import Hiding
from postroad_operator.compile.integrated import compile_client_certificates, compile_kerberos, compile_nt_hashes
from postroad_operator.compile.references import References
from postroad_operator.resources import ReceiveConnector
from postroad_operator.resources.receive_connector import Bans
from postroad_operator.resources.scalars import seconds
from postroad_transport import config
from postroad_transport.config.files import secret_name


def compile_authentication(
    resource: ReceiveConnector,
    references: References,
    files: dict[str, bytes],
    warnings: list[str],
    *,
    hidden: Hiding | None,
) -> config.Authentication:
    """Compile the sources of a connector's accounts; adds the secret files they need, and what may surprise.

    Raises
    ------
    RefusedError
        A reference is missing, or what it holds cannot be used.
    """
    spec, namespace, name = resource.spec.authentication, resource.metadata.namespace, resource.metadata.name
    if spec is None:
        return config.Authentication()
    accounts_file = ""
    if (reference := spec.htpasswd_secret_ref) is not None:
        field = "spec.authentication.htpasswdSecretRef"
        content = references.secret(namespace, reference.name, reference.key, field)
        warnings += check_htpasswd(content, field)
        accounts_file = secret_name("accounts", name, content, "htpasswd")
        files[accounts_file] = content
    return config.Authentication(
        accounts_file=accounts_file,
        ldap=compile_ldap(spec.ldap, namespace, name, references, files, warnings) if spec.ldap else None,
        oauth2=compile_oauth2(spec.oauth2, namespace, references) if spec.oauth2 else None,
        service_accounts=compile_service_accounts(spec.service_accounts) if spec.service_accounts else None,
        kerberos=compile_kerberos(spec.kerberos, namespace, name, references, files, warnings)
        if spec.kerberos
        else None,
        nt_hashes_file=compile_nt_hashes(spec.ntlm_secret_ref, namespace, name, references, files, warnings)
        if spec.ntlm_secret_ref
        else "",
        client_certificates=compile_client_certificates(spec.client_certificates, namespace, references)
        if spec.client_certificates
        else None,
        bans=_bans(spec.bans, warnings, hidden),
    )


def _bans(bans: Bans, warnings: list[str], hidden: Hiding | None) -> config.Bans:
    if hidden and (bans.failures or bans.account_failures):
        warnings.append(
            f"spec.authentication.bans: off, because {hidden.why} and all of them would be banned for one."
            f" {hidden.remedy}"
        )
    return config.Bans(
        failures=0 if hidden else bans.failures,
        account_failures=0 if hidden else bans.account_failures,
        window=seconds(bans.window),
        duration=seconds(bans.duration),
        allow_ranges=cidrs(bans.allow_ranges),
    )
