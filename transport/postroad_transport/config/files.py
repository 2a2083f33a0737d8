"""The configuration directory: how a TierConfig and its secrets lie on disk.

``DIR/config.json.gz`` is the ConfigMap's one key; ``DIR/secrets/`` holds the Secret's keys as files. On a
cluster both are mounted volumes; ``postroad run`` writes the same layout, so a worker cannot tell.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from postroad_transport.config.model import TierConfig

CONFIG_FILE = "config.json.gz"
SECRETS_DIRECTORY = "secrets"

#: Among the secrets: what the keys of session tickets are derived from. The one file that is not named by its content
#: and that no configuration names, since it is replaced in time without a change of either.
SESSION_TICKETS_FILE = "session-tickets.key"
#: Bytes of it, random.
SESSION_TICKETS_LENGTH = 32

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(TierConfig)


class ConfigError(Exception):
    """The configuration on disk cannot be served; the message says why and names no secret."""


def encode(config: TierConfig) -> bytes:
    """Return the one canonical JSON form of `config`."""
    return _encoder.encode(config)


def config_hash(encoded: bytes) -> str:
    """Return the identity of an encoded configuration: what ``/configz`` reports and the operator expects."""
    return hashlib.sha256(encoded).hexdigest()


def compress(encoded: bytes) -> bytes:
    """Compress reproducibly, so that an unchanged configuration gives unchanged bytes."""
    return gzip.compress(encoded, mtime=0)


def unpack(packed: bytes) -> tuple[TierConfig, str]:
    """Return a compressed configuration, and its hash.

    Raises
    ------
    ConfigError
        It is not gzip, is not JSON, or does not match the model.
    """
    try:
        encoded = gzip.decompress(packed)
        config = _decoder.decode(encoded)
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
        raise ConfigError(str(error)) from error
    if config.format_version != 1:
        raise ConfigError(f"format {config.format_version} is not 1")
    return config, config_hash(encoded)


def load(directory: Path) -> tuple[TierConfig, str]:
    """Read ``DIR/config.json.gz``; return the configuration and its hash.

    Raises
    ------
    ConfigError
        The file is missing, or is no configuration (see :func:`unpack`).
    """
    try:
        return unpack((directory / CONFIG_FILE).read_bytes())
    except (OSError, ConfigError) as error:
        raise ConfigError(f"{directory / CONFIG_FILE}: {error}") from error


def read_secret(directory: Path, name: str) -> bytes:
    """Return the content of one secret file.

    Raises
    ------
    ConfigError
        There is no such file, or it cannot be read.
    """
    try:
        return (directory / SECRETS_DIRECTORY / name).read_bytes()
    except OSError as error:
        raise ConfigError(f"secret file {name}: {error.strerror}") from error


def secret_name(kind: str, name: str, content: bytes, suffix: str) -> str:
    """Name a secret file by what it is and by its content: ``certificate.mail.3f2a91c04b7d.crt``."""
    return f"{kind}.{name}.{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"


def store(directory: Path, packed: bytes, secret_files: Mapping[str, bytes]) -> bool:
    """Write a compressed configuration and its secrets into `directory`; return whether anything to serve changed.

    Secrets are written first, then the configuration replaces the old one in one rename, then secrets that
    it does not name are removed: a reader sees either the old pair or the new one.
    """
    secrets = directory / SECRETS_DIRECTORY
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    changed = False
    files = [(secrets / name, content) for name, content in secret_files.items()]
    for target, content in (*files, (directory / CONFIG_FILE, packed)):
        if not target.exists() or target.read_bytes() != content:
            _replace(target, content)
            changed = True
    for path in secrets.iterdir():
        if path.name not in secret_files:
            path.unlink()
    return changed


def copy(source: Path, target: Path) -> None:
    """Make `target` hold what `source` holds.

    Raises
    ------
    OSError
        `source` cannot be read, or `target` cannot be written.
    """
    packed = (source / CONFIG_FILE).read_bytes()
    files = {path.name: path.read_bytes() for path in (source / SECRETS_DIRECTORY).iterdir() if path.is_file()}
    store(target, packed, files)


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".{target.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
