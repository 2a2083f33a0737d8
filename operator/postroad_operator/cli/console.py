"""The console the commands print tables on."""

from __future__ import annotations

from rich.console import Console

#: Columns where the output is not a terminal: a pipe or a file must not get words cut in two.
PIPE_WIDTH = 240


def wide_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for any row where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def age(seconds: float) -> str:
    """Write an age as people do: ``42s``, ``5m``, ``3h``, ``2d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
