"""The command line. Subcommands are imported when they are used, so that ``postroad --help`` is instant."""

from __future__ import annotations

from importlib import import_module

import click

#: Subcommand to (module, attribute, what the overview says).
COMMANDS: dict[str, tuple[str, str, str]] = {
    "certificates": (
        "postroad_operator.cli.certificates",
        "certificates",
        "List the certificates of a tier here; print requests for a CA.",
    ),
    "bans": ("postroad_operator.cli.bans", "bans", "List and lift the bans of a running tier."),
    "crds": ("postroad_operator.cli.crds", "crds", "Print the CustomResourceDefinitions, write or apply them."),
    "explain": ("postroad_operator.cli.explain", "explain", "Say what would happen to a message, and why."),
    "htpasswd": ("postroad_operator.cli.htpasswd", "htpasswd", "Make a line for an htpasswd Secret."),
    "lint": ("postroad_operator.cli.lint", "lint", "Check manifests and say what is wrong with them."),
    "operator": (
        "postroad_operator.cli.operate",
        "operator",
        "Run the operator: publish what a cluster's resources say.",
    ),
    "probe": ("postroad_operator.cli.probe", "probe", "Send a test message, and see it delivered."),
    "queue": ("postroad_operator.cli.queue", "queue", "List and change the messages queued in a running tier."),
    "render": ("postroad_operator.cli.render", "render", "Print what the cluster would get for manifests."),
    "run": ("postroad_operator.cli.run", "run", "Run a tier on this machine from a directory of manifests."),
    "subscription": (
        "postroad_operator.cli.subscription",
        "subscription",
        "Carry a tier's server certificates to another tier.",
    ),
    "transport": (
        "postroad_operator.cli.transport",
        "transport",
        "Run a transport pod: serve a mounted configuration.",
    ),
}


class _LazyGroup(click.Group):
    """A group that knows the names of its commands and loads only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in sorted(COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="postroad")
def main() -> None:
    """Postroad: a mail transport tier that is run from its manifests."""
