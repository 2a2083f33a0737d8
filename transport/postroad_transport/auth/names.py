"""Which names accounts may have that a directory, an issuer or a certificate names."""

from __future__ import annotations

MAX_NAME = 256
"""Longest name of an account."""
SERVICE_ACCOUNT = "system:serviceaccount:"
"""How the names of Kubernetes service accounts begin: the cluster alone says who is one."""


def is_usable(name: str) -> bool:
    """Tell whether `name` can be an account's: printable, of a bearable length, and no service account's."""
    return 0 < len(name) <= MAX_NAME and name.isprintable() and not name.casefold().startswith(SERVICE_ACCOUNT)
