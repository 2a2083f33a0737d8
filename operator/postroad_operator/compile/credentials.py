"""What a send connector logs in with: taken from its Secret in the form that the transport reads."""

from __future__ import annotations

import json

from postroad_operator.compile.partners import authorities
from postroad_operator.compile.references import References
from postroad_operator.compile.verdict import Reason, RefusedError
from postroad_operator.resources.send_connector import SendConnectorSpec, TokenEndpoint
from postroad_transport import config

_FIELD = "spec.authSecretRef"


def credentials(spec: SendConnectorSpec, namespace: str, name: str, references: References) -> bytes:
    """Return the content of the secret file.

    Raises
    ------
    RefusedError
        The Secret is missing, lacks a key, or holds something that is no text.
    """
    values = {"username": references.secret(namespace, name, "username", _FIELD)}
    if spec.oauth2:
        values["clientId"] = references.secret(namespace, name, "clientID", _FIELD)
        for key in ("clientSecret", "refreshToken"):
            if (value := references.optional_secret(namespace, name, key, _FIELD)) is not None:
                values[key] = value
        if len(values) == 2:
            raise RefusedError(
                Reason.REF_NOT_FOUND, f"{_FIELD}: Secret {name} has no key clientSecret or refreshToken: add one"
            )
    elif (token := references.optional_secret(namespace, name, "accessToken", _FIELD)) is not None:
        values["accessToken"] = token
    else:
        values["password"] = references.secret(namespace, name, "password", _FIELD)
    try:
        # A trailing newline comes from `echo`, never from a password.
        content = {key: value.decode().rstrip("\r\n") for key, value in values.items()}
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.INVALID_REF, f"{_FIELD}: what Secret {name} holds must be UTF-8 text") from error
    if empty := sorted(key for key, value in content.items() if not value):
        raise RefusedError(Reason.INVALID_REF, f"{_FIELD}: Secret {name} holds nothing in {', '.join(empty)}")
    return json.dumps(content, sort_keys=True).encode()


def token_endpoint(spec: TokenEndpoint, namespace: str, references: References) -> config.TokenEndpoint:
    """Return where access tokens are had. Raises RefusedError where the CA certificates cannot be used."""
    reference = spec.ca_bundle_config_map_ref
    return config.TokenEndpoint(
        url=spec.token_url,
        scopes=tuple(spec.scopes),
        ca_bundle=authorities(reference, namespace, "spec.oauth2.caBundleConfigMapRef", references)
        if reference
        else "",
    )
