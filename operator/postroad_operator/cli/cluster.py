"""Reading a cluster's resources in place of a directory of manifests, for ``lint`` and ``explain``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from postroad_operator.compile import Compilation, IssuedCertificate, Snapshot, TierSettings, compile_tier, tiers
from postroad_operator.resources import API_VERSION, KINDS, Ignored, Manifests, parse

if TYPE_CHECKING:
    from postroad_operator.publish import KubernetesApi
    from postroad_operator.publish.published import Published

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
        settings = replace(base, tier=tier, namespace=self.namespace)
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
    from postroad_operator.publish import ApiError, object_name
    from postroad_operator.publish.published import published

    manifests = Manifests()
    for kind in (*KINDS, *_REFERENCES):
        try:
            documents = await api.documents(kind, within)
        except ApiError as error:
            if kind not in _REFERENCES or error.code != 403:
                raise
            click.echo(f"note: {kind}s may not be read: what refers to them is left out", err=True)
            continue
        for document in documents:
            parsed = parse({**document, "apiVersion": API_VERSION if kind in KINDS else "v1", "kind": kind})
            if not isinstance(parsed, Ignored):
                manifests.objects.append(parsed)
    known = {}
    for tier in tiers(manifests.objects):
        config_map = await api.get("ConfigMap", own, object_name(tier))
        if config_map is not None and (config := published(config_map)) is not None:
            known[tier] = config
    return Found(own, manifests, known)
