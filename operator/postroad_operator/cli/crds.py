"""``postroad crds``: the CustomResourceDefinitions and the field reference."""

from __future__ import annotations

from pathlib import Path

import click

from postroad_operator.resources.crds import manifests
from postroad_operator.resources.reference import reference


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path), help="Write one file a kind into this directory.")
@click.option(
    "--reference", "reference_file", type=click.Path(path_type=Path), help="Write the field reference here."
)
def crds(output_dir: Path | None, reference_file: Path | None) -> None:
    """Print the CustomResourceDefinitions as YAML, or write them to files."""
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
