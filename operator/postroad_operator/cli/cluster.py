"""Reading a cluster's resources in place of a directory of manifests, for ``lint`` and ``explain``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from postroad_operator.compile import (
    Compilation,
    Exposure,
    IssuedCertificate,
    Snapshot,
    TierSettings,
    compile_tier,
    exposure_of,
    hidden_ports,
    tiers,
)
from postroad_operator.resources import API_VERSION, KINDS, Ignored, Manifests, parse

if TYPE_CHECKING:
    from postroad_operator.publish import KubernetesApi
    from postroad_operator.publish.published import Published
    from postroad_operator.status import Pod

_REFERENCES = ("Secret", "ConfigMap")


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a cluster's namespaces; the command gets cluster, namespace and all_namespaces."""
    for option in reversed(
        (
            click.option(
                "--cluster",
                is_flag=True,
                help="Take the resources of a cluster: the pod's own, or the one in $KUBECONFIG, ~/.kube/config.",
            ),
            click.option(
                "-n", "--namespace", default="", help="With --cluster: the operator's namespace.  [default: yours]"
            ),
            click.option(
                "-A", "--all-namespaces", is_flag=True, help="With --cluster: for an operator with this option."
            ),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Found:
    """What is on a cluster: its resources, and what each tier has published."""

    namespace: str
    manifests: Manifests
    published: dict[str, Published]
    exposures: list[Exposure]
    pods: list[Pod]

    def compile(self, base: TierSettings, context: click.Context) -> list[Compilation]:
        """Compile every tier as its operator does, with the certificates that it has issued.

        Role and hostname are the published ones, unless they are given on the command line.
        """
        return [
            compile_tier(
                Snapshot(
                    self._settings(base, tier, context),
                    tuple(self.manifests.objects),
                    {item.source: IssuedCertificate(item, {}) for item in self._certificates(tier)},
                )
            )
            for tier in tiers(self.manifests.objects) or (base.tier,)
        ]

    def _settings(self, base: TierSettings, tier: str, context: click.Context) -> TierSettings:
        hidden = hidden_ports(tier, self.exposures, self.pods)
        settings = replace(base, tier=tier, namespace=self.namespace, hidden_ports=hidden)
        known = self.published.get(tier)
        if known is None:
            return settings
        given = {
            name
            for name in ("role", "hostname")
            if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        }
        role = settings.role if "role" in given else known.role
        hostname = settings.hostname if "hostname" in given else known.hostname
        return replace(settings, role=role, hostname=hostname)

    def _certificates(self, tier: str) -> tuple[Any, ...]:
        known = self.published.get(tier)
        return known.certificates if known else ()


def read_cluster(namespace: str, *, all_namespaces: bool) -> Found:
    """Read the resources of a cluster. What cannot be read ends the command, Secrets and ConfigMaps apart."""
    try:
        from postroad_operator.handlers.service import NoClusterError, log_in
        from postroad_operator.publish import ApiError, KubernetesApi
    except ImportError as error:
        raise click.ClickException(f"{error.name} is missing: install postroad[operator]") from error

    async def run() -> Found:
        connection = log_in()
        api = KubernetesApi(connection)
        own = namespace or connection.default_namespace or "default"
        try:
            return await _read(api, own, None if all_namespaces else own)
        finally:
            await api.close()

    try:
        return asyncio.run(run())
    except (ApiError, NoClusterError) as error:
        raise click.UsageError(str(error)) from error


async def _read(api: KubernetesApi, own: str, within: str | None) -> Found:
    from postroad_operator.publish import object_name
    from postroad_operator.publish.published import published
    from postroad_operator.status import pod_of

    manifests = Manifests()
    for kind in (*KINDS, *_REFERENCES):
        lost = "what refers to them is left out" if kind in _REFERENCES else ""
        for document in await _documents(api, kind, within, lost):
            parsed = parse({**document, "apiVersion": API_VERSION if kind in KINDS else "v1", "kind": kind})
            if not isinstance(parsed, Ignored):
                manifests.objects.append(parsed)
    known = {}
    for tier in tiers(manifests.objects):
        config_map = await api.get("ConfigMap", own, object_name(tier))
        if config_map is not None and (config := published(config_map)) is not None:
            known[tier] = config
    lost = "clients' addresses are taken to be visible"
    services = await _documents(api, "Service", own, lost)
    pods = await _documents(api, "Pod", own, lost)
    return Found(
        own,
        manifests,
        known,
        [exposure for document in services if (exposure := exposure_of(document))],
        [pod for document in pods if (pod := pod_of(document))],
    )


async def _documents(api: KubernetesApi, kind: str, namespace: str | None, lost: str) -> list[dict[str, Any]]:
    """List objects; of those that may not be read, say what is `lost`. Raises ApiError where that is everything."""
    from postroad_operator.publish import ApiError

    try:
        return await api.documents(kind, namespace)
    except ApiError as error:
        if not lost or error.code != 403:
            raise
        click.echo(f"note: {kind}s may not be read: {lost}", err=True)
        return []
