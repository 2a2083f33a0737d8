"""Proof that the indexes are complete: lists, compared with what the watches have brought."""

from __future__ import annotations

from postroad_operator.handlers.cluster import INPUTS, Cluster
from postroad_operator.publish import Identity, KubernetesApi


async def audit(api: KubernetesApi, cluster: Cluster, namespace: str | None) -> bool:
    """List every kind of input; tell whether the indexes hold all of it, and drop from them what is gone.

    Only after this is an empty index known to mean that there is nothing. Raises ApiError when a list fails.
    """
    complete = True
    gone: set[Identity] = set()
    for kind in INPUTS:
        # What came after this moment may be missing from the list without being gone.
        before = cluster.identities(kind)
        listed = await api.identities(kind, namespace)
        gone |= before - listed
        complete = complete and listed <= cluster.identities(kind)
    cluster.forget(gone)
    return complete
