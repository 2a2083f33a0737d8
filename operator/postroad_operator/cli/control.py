"""The control socket of a running tier: how commands find it and ask it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import click

RUN_FILE = "run.json"


class NoTierError(click.ClickException):
    """No running tier was found."""

    exit_code = 2


def default_state_dir() -> Path:
    """Return ``$POSTROAD_STATE_DIR``, which the image sets for commands in a transport pod, else ``.postroad``."""
    return Path(os.environ.get("POSTROAD_STATE_DIR") or ".postroad")


def find_control_socket(state_dir: Path) -> str | None:
    """Return the control socket of what runs with `state_dir`: a tier with its ``run.json``, or a pod. None: nothing.

    The socket of a pod that was killed is still there: nobody answers on it.
    """
    try:
        return str(json.loads((state_dir / RUN_FILE).read_text())["control"])
    except (OSError, ValueError, KeyError):
        from postroad_transport.supervisor.process import CONTROL_SOCKET, short_run_dir

        socket = short_run_dir(state_dir) / CONTROL_SOCKET
        return str(socket) if socket.exists() else None


def control_socket(state_dir: Path) -> str:
    """Return the control socket of what runs with `state_dir`.

    Raises
    ------
    NoTierError
        Nothing does.
    """
    found = find_control_socket(state_dir)
    if found is None:
        raise NoTierError(f"no tier runs with the state directory {state_dir}: start one with `postroad run`")
    return found


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
            default=default_state_dir,
            show_default=".postroad",
            help="State directory of the running tier.",
        ),
    ):
        group = option(group)
    return group
