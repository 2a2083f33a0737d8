"""Where issued certificates and their keys are kept between runs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Protocol


class CertificateStore(Protocol):
    """Keeps PEM bundles (private key, then chain) by name. A bundle is replaced whole or not at all."""

    def load(self, name: str) -> bytes | None:
        """Return the bundle, None if there is none."""

    def save(self, name: str, bundle: bytes) -> None:
        """Keep the bundle in place of an older one."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all bundles."""

    def remove(self, name: str) -> None:
        """Drop a bundle, if there is one."""


def store_name(source: str) -> str:
    """Return the store name of a resource; the source is unique where a bare name is not."""
    return source.replace("/", ".")


class DirectoryStore:
    """Bundles as files ``NAME.pem`` of mode 0600 in a directory of mode 0700, which is made when needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, name: str) -> bytes | None:
        """Return the bundle, None if there is none. Raises OSError when it cannot be read."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def save(self, name: str, bundle: bytes) -> None:
        """Write beside the old bundle, make it durable, swap. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        # mkstemp creates with mode 0600, so the key is never readable by others, not even for a moment.
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self._directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(bundle)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path(name))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise

    def names(self) -> tuple[str, ...]:
        """Return the names of all bundles, sorted."""
        return tuple(sorted(path.stem for path in self._directory.glob("*.pem") if not path.name.startswith(".")))

    def remove(self, name: str) -> None:
        """Drop a bundle, if there is one. Raises OSError."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        # Kubernetes names hold no slash and never start with a dot; anything else could leave the directory.
        if not name or "/" in name or "\0" in name or name.startswith("."):
            raise ValueError(f"not a store name: {name!r}")
        return self._directory / f"{name}.pem"
