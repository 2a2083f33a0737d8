"""``postroad crds``: the CustomResourceDefinitions and the field reference."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import yaml

from postroad_operator.resources.crds import manifests
from postroad_operator.resources.reference import reference


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path), help="Write one file a kind into this directory.")
@click.option(
    "--reference", "reference_file", type=click.Path(path_type=Path), help="Write the field reference here."
)
@click.option("--apply", "to_cluster", is_flag=True, help="Bring the cluster's definitions to these.")
def crds(output_dir: Path | None, reference_file: Path | None, to_cluster: bool) -> None:
    """Print the CustomResourceDefinitions as YAML, write them to files, or bring a cluster's to them."""
    if to_cluster:
        _apply()
        return
    try:
        if output_dir is not None:
            output_dir.mkdir(parents=True, exist_ok=True)
            for name, text in manifests().items():
                (output_dir / name).write_text(text, encoding="utf-8")
        if reference_file is not None:
            reference_file.parent.mkdir(parents=True, exist_ok=True)
            reference_file.write_text(reference(), encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
    if output_dir is None and reference_file is None:
        click.echo("---\n".join(manifests().values()), nl=False)


def _apply() -> None:
    try:
        from postroad_operator.handlers.service import NoClusterError, log_in
        from postroad_operator.publish import ApiError, KubernetesApi
        from postroad_operator.publish.definitions import install_definitions
    except ImportError as error:
        raise click.ClickException(f"{error.name} is missing: install postroad[operator]") from error

    async def run() -> dict[str, str]:
        api = KubernetesApi(log_in())
        try:
            return await install_definitions(api, map(yaml.safe_load, manifests().values()))
        finally:
            await api.close()

    try:
        done = asyncio.run(run())
    except (ApiError, NoClusterError) as error:
        raise click.ClickException(str(error)) from error
    for name, what in done.items():
        click.echo(f"{name} {what}")
