"""Publishing: one ConfigMap and one Secret for each tier, written by server-side apply and only when they differ."""

from postroad_operator.publish.api import ApiError, Identity, KubernetesApi
from postroad_operator.publish.bundles import SecretBundles
from postroad_operator.publish.objects import (
    FIELD_MANAGER,
    Owner,
    certificates_name,
    config_map,
    differs,
    object_name,
    secret,
)

__all__ = [
    "FIELD_MANAGER",
    "ApiError",
    "Identity",
    "KubernetesApi",
    "Owner",
    "SecretBundles",
    "certificates_name",
    "config_map",
    "differs",
    "object_name",
    "secret",
]
