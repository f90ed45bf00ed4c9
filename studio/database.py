"""One SQLite table in WAL mode that can always be made again from files: opened, set aside when damaged, written whole.

The history's index and the table of jobs are such tables. Knows no rows.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studio.errors import StorageError


class RebuildableTable:
    """The table `name` of one database file; every method may be called from any thread.

    `title` is what errors call it ("The table of runs"), `schema` the statement that makes it, `version` the schema's:
    a file of another version starts empty. Raises `StorageError` from everything the disk refuses.
    """

    def __init__(self, path: Path, *, name: str, title: str, schema: str, version: int) -> None:
        self._path, self._name, self._title = path, name, title
        self._schema, self._version = schema, version
        self._lock = threading.RLock()
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError:
            self._set_aside()
            try:
                self._connection = self._open()
            except sqlite3.Error as error:
                raise StorageError(f"{title} {path} cannot be opened: {error}.") from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=10)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the file is damaged")
            if connection.execute("PRAGMA user_version").fetchone() != (self._version,):
                connection.executescript(
                    f"BEGIN; DROP TABLE IF EXISTS {self._name}; {self._schema} PRAGMA user_version={self._version}; "
                    "COMMIT;"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> None:
        """A damaged table holds little that the files do not: keep it for the curious and start a new one."""
        try:
            self._path.replace(self._path.with_suffix(".damaged"))
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._title} {self._path} is damaged and cannot be moved: {error}.") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done in the block, or nothing of it."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StorageError(f"{self._title} cannot be written: {error}. Is the disk full?") from error

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds; `values` are bound, never part of the text."""
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{self._title} cannot be read: {error}. Restart to rebuild it.") from error

    def close(self) -> None:
        """Close the file; nothing may be asked afterwards."""
        with self._lock:
            self._connection.close()
