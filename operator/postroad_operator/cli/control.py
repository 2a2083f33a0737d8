"""The control socket of a running tier: how commands find it and ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import click

RUN_FILE = "run.json"


class NoTierError(click.ClickException):
    """No running tier was found."""

    exit_code = 2


def control_socket(state_dir: Path) -> str:
    """Return the control socket of the tier that runs with `state_dir`.

    Raises
    ------
    NoTierError
        There is no ``run.json``: no tier runs there.
    """
    try:
        return str(json.loads((state_dir / RUN_FILE).read_text())["control"])
    except (OSError, ValueError, KeyError) as error:
        raise NoTierError(
            f"no tier runs with the state directory {state_dir} (no {RUN_FILE} there): start one with `postroad run`"
        ) from error


def call(socket: str, method: str, path: str, params: dict[str, str]) -> Any:
    """Make one request to the control socket and return the decoded answer.

    Raises
    ------
    NoTierError
        Nobody listens.
    click.ClickException
        The tier refused, for instance because there is no such message.
    """

    async def request() -> Any:
        connector = aiohttp.UnixConnector(path=socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://postroad{path}", params=params) as response,
        ):
            body = await response.json(content_type=None)
            if response.status >= 400:
                raise click.ClickException(body["error"])
            return body

    try:
        return asyncio.run(request())
    except (aiohttp.ClientError, OSError) as error:
        raise NoTierError(f"the tier does not answer on {socket}: {error}") from error


def control_options(group: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which tier is meant; the group gets state_dir and control."""
    for option in (
        click.option(
            "--control", default="", help="Control socket, where there is no state directory to find it by."
        ),
        click.option(
            "--state-dir",
            type=click.Path(path_type=Path),
            default=Path(".postroad"),
            show_default=True,
            help="State directory of the running tier.",
        ),
    ):
        group = option(group)
    return group
