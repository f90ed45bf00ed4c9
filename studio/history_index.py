"""The index over the pictures: one SQLite table in WAL mode, always rebuildable from the files.

Rows are ordered by id, which begins with the time of creation, so the id of the last row seen is the cursor of the
next page, even when that row has been deleted meanwhile. File names are relative to the outputs folder.
This module does not open pictures and removes none.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import StorageError
from studio.types import GenerationRequest

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (
    id TEXT PRIMARY KEY, tab TEXT NOT NULL, created TEXT NOT NULL, file TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL, words TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture as the index knows it; `description` is the JSON inside the picture."""

    id: str
    tab: str
    created: str
    file: str
    description: dict[str, Any]

    @property
    def request(self) -> GenerationRequest:
        return GenerationRequest.from_json(self.description["request"])

    @property
    def words(self) -> str:
        """What a search looks through, in one case."""
        request = self.description["request"]
        names = ("prompt", "negative_prompt", "model", "accelerator", "seed")
        return " ".join(str(request.get(name, "")) for name in names).casefold()


class HistoryIndex:
    """The table `pictures` of one database file; every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError:
            self._set_aside()
            try:
                self._connection = self._open()
            except sqlite3.Error as error:
                raise StorageError(f"The history's index {path} cannot be opened: {error}.") from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=10)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the file is damaged")
            if connection.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
                connection.execute("DROP TABLE IF EXISTS pictures")
                connection.executescript(f"{SCHEMA} PRAGMA user_version={SCHEMA_VERSION};")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> None:
        """A damaged index holds nothing that the files do not: keep it for the curious and start a new one."""
        try:
            self._path.replace(self._path.with_suffix(".damaged"))
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"The history's index {self._path} is damaged and cannot be moved: {error}.") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
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
                raise StorageError(f"The history's index cannot be written: {error}. Is the disk full?") from error

    def add(self, rows: Iterable[Row]) -> None:
        """Insert rows; one with a known id or file replaces it."""
        values = [
            (row.id, row.tab, row.created, row.file, json.dumps(row.description, ensure_ascii=False), row.words)
            for row in rows
        ]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", values)

    def remove(self, ids: Iterable[str]) -> None:
        with self._transaction() as connection:
            connection.executemany("DELETE FROM pictures WHERE id = ?", [(id,) for id in ids])

    def get(self, id: str) -> Row | None:
        rows = self._select("id = ?", (id,), 1)
        return rows[0] if rows else None

    def search(self, *, text: str, tab: str | None, limit: int, before: str | None) -> tuple[Row, ...]:
        """Newest first; every word of `text` must occur somewhere in prompt, negative prompt, model, seed."""
        wheres, values = ["1"], []
        for word in text.casefold().split()[:20]:
            wheres.append("instr(words, ?) > 0")
            values.append(word)
        if tab is not None:
            wheres.append("tab = ?")
            values.append(tab)
        if before is not None:
            wheres.append("id < ?")
            values.append(before)
        return self._select(" AND ".join(wheres), tuple(values), limit)

    def files(self) -> dict[str, str]:
        """Every file the index knows, with its id."""
        with self._lock:
            return dict(self._connection.execute("SELECT file, id FROM pictures").fetchall())

    def _select(self, where: str, values: tuple[str, ...], limit: int) -> tuple[Row, ...]:
        """`where` is put together from this module's own words; what clients send is always bound."""
        query = f"SELECT id, tab, created, file, description FROM pictures WHERE {where} ORDER BY id DESC LIMIT ?"
        try:
            with self._lock:
                found = self._connection.execute(query, (*values, limit)).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"The history's index cannot be read: {error}. Restart to rebuild it.") from error
        return tuple(
            Row(id=id, tab=tab, created=created, file=file, description=json.loads(description))
            for id, tab, created, file, description in found
        )

    def close(self) -> None:
        with self._lock:
            self._connection.close()
