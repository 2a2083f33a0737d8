"""Adding a PEM bundle to a context's trust."""

from __future__ import annotations

import ssl

from postroad_transport.config.files import ConfigError


def add_trust(context: ssl.SSLContext, bundle: str, what: str) -> None:
    """Trust the certificates in `bundle`; text between them, in any script, is skipped.

    Raises
    ------
    ConfigError
        There is no certificate in it, or one is damaged. The message begins with `what`.
    """
    try:
        context.load_verify_locations(cadata=bundle.encode("ascii", "ignore").decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{what}: not a bundle of PEM certificates") from error
