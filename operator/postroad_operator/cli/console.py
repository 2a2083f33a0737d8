"""The console the commands print tables on."""

from __future__ import annotations

from rich.console import Console

#: Columns where the output is not a terminal: a pipe or a file must not get words cut in two.
PIPE_WIDTH = 240


def wide_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for any row where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)
