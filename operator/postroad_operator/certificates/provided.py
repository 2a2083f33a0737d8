"""The outcome for one certificate that is wanted."""

from __future__ import annotations

from dataclasses import dataclass

from postroad_operator.certificates.material import Material


@dataclass(frozen=True, slots=True)
class Provided:
    """What there is for one request.

    ``material`` together with ``problems``: it goes on being served, although what is asked for now cannot be.
    ``pending`` says what is waited for while there is nothing to serve. ``pkcs10`` is the request to hand to an
    authority, in PEM. ``look_at`` are times to look again, in seconds since the epoch.
    """

    material: Material | None = None
    problems: tuple[str, ...] = ()
    pending: str = ""
    pkcs10: bytes = b""
    look_at: tuple[float, ...] = ()
