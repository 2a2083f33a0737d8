"""What a handler or a protocol class offers, looked up once per type (aiosmtpd reflects on every connection)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

EhloHook = Literal["old", "new"]


@lru_cache(maxsize=256)
def _names(kind: type, prefix: str) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith(prefix))


def methods(owner: Any, prefix: str) -> dict[str, Callable[..., Any]]:
    """Return the attributes of `owner` that start with `prefix`, by the rest of their name."""
    kind: Any = type(owner)
    found = {name[len(prefix) :]: getattr(owner, name) for name in _names(kind, prefix)}
    for name, value in getattr(owner, "__dict__", {}).items():
        if name.startswith(prefix):
            found[name[len(prefix) :]] = value
    return found


def auth_mechanisms(owner: Any) -> dict[str, Callable[..., Any]]:
    """Return the ``auth_*`` methods of `owner` by mechanism name, as aiosmtpd derives it."""
    return {
        getattr(method, "__auth_mechanism_name__", name.replace("__", "-")): method
        for name, method in methods(owner, "auth_").items()
    }


@lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)


def ehlo_hook_version(hook: Callable[..., Any] | None) -> EhloHook | None:
    """Return which of aiosmtpd's two ``handle_EHLO`` interfaces `hook` has.

    Raises
    ------
    RuntimeError
        It takes neither four nor five arguments.
    """
    if hook is None:
        return None
    function = getattr(hook, "__func__", None)
    count = _parameters(hook) if function is None else _parameters(function) - 1
    if count == 4:
        return "old"
    if count == 5:
        return "new"
    raise RuntimeError("Unsupported EHLO Hook")
