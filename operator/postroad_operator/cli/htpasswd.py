"""`postroad htpasswd`: make a line for an htpasswd Secret."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("user")
@click.option(
    "--scheme",
    type=click.Choice(["scram", "argon2"]),
    default="scram",
    show_default=True,
    help="scram: for SCRAM-SHA-256, PLAIN and LOGIN. argon2: for PLAIN and LOGIN only, and dearer to guess.",
)
@click.option("--address", "addresses", multiple=True, help="May be sent as; *@example.com for a domain.")
@click.option(
    "--iterations", type=click.IntRange(4096, 1_000_000), default=None, help="For scram.  [default: 600000]"
)
def htpasswd(user: str, scheme: str, addresses: tuple[str, ...], iterations: int | None) -> None:
    """Print a line for an htpasswd Secret; the password is asked for, or read from standard input."""
    if not user or set(user) & set(":\0\r\n") or user != user.strip() or user.startswith("#"):
        raise click.BadParameter("a colon, a line end or a # in front cannot stand in a user name", param_hint="USER")
    for address in addresses:
        if not all(address.rpartition("@")) or set(address) & set(" ,:"):
            raise click.BadParameter(f"{address} is not an address", param_hint="--address")
    password = _password()
    if scheme == "scram":
        from postroad_transport.auth import scram_keys

        try:
            keys = scram_keys.derive(password, iterations=iterations or scram_keys.DEFAULT_ITERATIONS)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        encoded = str(keys)
    else:
        import argon2

        # RFC 9106 section 4, second recommended option.
        encoded = argon2.PasswordHasher(time_cost=3, memory_cost=65536, parallelism=4).hash(password)
    click.echo(":".join([user, encoded, *([",".join(addresses)] if addresses else [])]))


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    if not password or "\0" in password:
        raise click.ClickException("the password is empty or holds a NUL")
    return password
