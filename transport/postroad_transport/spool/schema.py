"""The tables of a spool's database, and how those of former versions become them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from postroad_transport.spool.bodies import BodyFiles
from postroad_transport.spool.store import SpoolError

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x506F5374  # "PoSt"

_MESSAGE = """
CREATE TABLE message (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL,
  file INTEGER,
  offset INTEGER,
  size INTEGER,
  envelope BLOB NOT NULL
);
"""
_CONTENT = "CREATE TABLE content (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);"
_MOVE_BODIES = """
INSERT INTO message SELECT seq, id, seq, 0, body_size(seq), envelope FROM former WHERE in_file;
INSERT INTO message SELECT seq, id, NULL, NULL, NULL, envelope FROM former WHERE NOT in_file;
DROP TABLE former;
"""
MIGRATIONS: Mapping[int, str] = {
    0: _MESSAGE + _CONTENT,
    # Each content that was not in the database had a file of its own.
    1: "ALTER TABLE message RENAME TO former;" + _MESSAGE + _MOVE_BODIES,
}
"""SQL that brings a new file (0), or one of a former version, to this one."""


def migrate(connection: sqlite3.Connection, bodies: BodyFiles) -> None:
    """Bring a file to this version, in one transaction.

    Raises
    ------
    SpoolError
        It was written by a newer version.
    sqlite3.Error
        It stays as it was.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise SpoolError(f"the spool has schema {version}; this program knows {SCHEMA_VERSION}")
    if version < SCHEMA_VERSION:
        connection.create_function("body_size", 1, bodies.size)
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[version]}"
            f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
