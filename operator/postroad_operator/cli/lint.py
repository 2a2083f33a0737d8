"""``postroad lint``: every verdict and every fault, for people and for pipelines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from postroad_operator.cli.cluster import cluster_options, read_cluster
from postroad_operator.cli.load import REFUSED, compile_all, read_manifests, settings, tier_options
from postroad_operator.compile import Reason, Verdict
from postroad_operator.resources import Manifests


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@cluster_options
@tier_options
@click.option("--strict", is_flag=True, help="Fail on warnings as well.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def lint(
    context: click.Context,
    /,
    path: Path | None,
    strict: bool,
    output: str,
    role: str,
    hostname: str,
    networks: tuple[str, ...],
    client_addresses_hidden: bool,
    cluster: bool,
    namespace: str,
    all_namespaces: bool,
) -> None:
    """Check the manifests in PATH (a file or a directory), or with --cluster the resources of one, as it would.

    Exit code 0: all is accepted. 1: something is refused or invalid (with --strict also: there are warnings).
    2: the command cannot be carried out.
    """
    if (path is None) is not cluster:
        raise click.UsageError("give PATH or --cluster")
    given = settings(role, hostname, networks, client_addresses_hidden=client_addresses_hidden)
    if path is None:
        found = read_cluster(namespace, all_namespaces=all_namespaces)
        manifests, compilations = found.manifests, found.compile(given, context)
    else:
        manifests = read_manifests(path)
        compilations = compile_all(manifests, given)
    seen: dict[tuple[str, str], Verdict] = {}
    for compilation in compilations:
        for verdict in compilation.verdicts:
            seen.setdefault((verdict.source, verdict.message), verdict)
    verdicts = list(seen.values())
    report = _report(verdicts, manifests)
    if output == "json":
        click.echo(json.dumps(report, indent=2))
    else:
        for line in _text(verdicts, manifests):
            click.echo(line)
    if report["refused"] or report["faults"] or (strict and report["warnings"]):
        raise click.exceptions.Exit(REFUSED)


def _report(verdicts: list[Verdict], manifests: Manifests) -> dict[str, Any]:
    return {
        "accepted": sum(verdict.accepted for verdict in verdicts),
        "refused": sum(not verdict.accepted for verdict in verdicts),
        "warnings": sum(len(verdict.warnings) for verdict in verdicts),
        "verdicts": [
            {
                "source": verdict.source,
                "accepted": verdict.accepted,
                "reason": verdict.reason,
                "message": verdict.message,
                "warnings": verdict.warnings,
                **_place(verdict.source, manifests),
            }
            for verdict in verdicts
        ],
        "faults": [
            {
                "source": fault.source,
                "file": fault.origin.file,
                "document": fault.origin.document,
                "line": fault.line,
                "field": fault.problem.field,
                "message": fault.problem.message,
            }
            for fault in manifests.faults
        ],
        "ignored": manifests.notes,
    }


def _place(source: str, manifests: Manifests) -> dict[str, Any]:
    origin = manifests.origins.get(source)
    return {"file": origin.file, "document": origin.document, "line": origin.line} if origin else {}


def _text(verdicts: list[Verdict], manifests: Manifests) -> Iterator[str]:
    rows = [(verdict.source, _state(verdict), str(manifests.origins.get(verdict.source, ""))) for verdict in verdicts]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    if rows:
        yield click.style(f"{'RESOURCE':{widths[0]}}  {'VERDICT':{widths[1]}}  WHERE", bold=True)
    for verdict, (source, state, where) in zip(verdicts, rows, strict=True):
        colour = "green" if verdict.accepted else "red"
        yield f"{source:{widths[0]}}  {click.style(f'{state:{widths[1]}}', fg=colour)}  {where}"
    details = [*_errors(verdicts, manifests), *_warnings(verdicts, manifests), *_notes(manifests)]
    if details:
        yield ""
        yield from details
    yield ""
    yield _summary(verdicts, manifests)


def _state(verdict: Verdict) -> str:
    if not verdict.accepted:
        return f"refused: {verdict.reason}"
    return "accepted" if verdict.reason is Reason.ACCEPTED else f"accepted: {verdict.reason}"


def _errors(verdicts: list[Verdict], manifests: Manifests) -> Iterator[str]:
    error = click.style("error", fg="red", bold=True)
    for fault in manifests.faults:
        origin = fault.origin
        yield f"{origin.file}:{fault.line}: {error}: document {origin.document}: {fault.source}: {fault.problem}"
    faulty = {fault.source for fault in manifests.faults}
    for verdict in verdicts:
        # What is invalid in a file has been said above, field by field and line by line.
        if not verdict.accepted and not (verdict.reason is Reason.INVALID and verdict.source in faulty):
            yield _line(verdict, manifests, error, verdict.message)


def _warnings(verdicts: list[Verdict], manifests: Manifests) -> Iterator[str]:
    warning = click.style("warning", fg="yellow", bold=True)
    for verdict in verdicts:
        for text in verdict.warnings:
            yield _line(verdict, manifests, warning, text)


def _notes(manifests: Manifests) -> Iterator[str]:
    for note in manifests.notes:
        place, _, text = note.rpartition(": ")
        yield f"{place}: note: {text}" if place else note


def _line(verdict: Verdict, manifests: Manifests, word: str, text: str) -> str:
    origin = manifests.origins.get(verdict.source)
    place, document = (f"{origin}: ", f"document {origin.document}: ") if origin else ("", "")
    return f"{place}{word}: {document}{verdict.source}: {text}"


def _summary(verdicts: list[Verdict], manifests: Manifests) -> str:
    accepted = sum(verdict.accepted for verdict in verdicts)
    warnings = sum(len(verdict.warnings) for verdict in verdicts)
    if not verdicts and not manifests.faults:
        return "no resources found: write *.yaml files with the kinds of postroad.dev/v1alpha1"
    parts = (
        (accepted, "accepted"),
        (len(verdicts) - accepted, "refused"),
        (warnings, "warning" if warnings == 1 else "warnings"),
        (len(manifests.faults), "fault" if len(manifests.faults) == 1 else "faults"),
    )
    return ", ".join(f"{count} {word}" for count, word in parts)
