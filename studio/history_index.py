"""The index over the pictures: one SQLite table in WAL mode, always rebuildable from the files.

Rows are ordered by id, which begins with the time of creation, so the id of the last row seen is the cursor of the
next page, even when that row has been deleted meanwhile. File names are relative to the outputs folder.
This module does not open pictures and removes none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.database import RebuildableTable
from studio.types import CONDITIONS, GenerationRequest

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
        self._table = RebuildableTable(
            path, name="pictures", title="The history's index", schema=SCHEMA, version=SCHEMA_VERSION
        )

    def add(self, rows: Iterable[Row]) -> None:
        """Insert rows; one with a known id or file replaces it."""
        values = [
            (row.id, row.tab, row.created, row.file, json.dumps(row.description, ensure_ascii=False), row.words)
            for row in rows
        ]
        with self._table.transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", values)

    def remove(self, ids: Iterable[str]) -> None:
        with self._table.transaction() as connection:
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
        return dict(self._table.rows("SELECT file, id FROM pictures"))

    def input_pictures(self) -> set[str]:
        """Every input picture that a row's request names."""
        wheres = " OR ".join("instr(description, ?) > 0" for _ in CONDITIONS)
        names = tuple(f'"{name}"' for name in CONDITIONS)
        rows = self._table.rows(f"SELECT description FROM pictures WHERE {wheres}", names)
        requests = (GenerationRequest.from_json(json.loads(text)["request"]) for (text,) in rows)
        return {id for request in requests for id in request.pictures}

    def _select(self, where: str, values: tuple[str, ...], limit: int) -> tuple[Row, ...]:
        """`where` is put together from this module's own words; what clients send is always bound."""
        query = f"SELECT id, tab, created, file, description FROM pictures WHERE {where} ORDER BY id DESC LIMIT ?"
        found = self._table.rows(query, (*values, limit))
        return tuple(
            Row(id=id, tab=tab, created=created, file=file, description=json.loads(description))
            for id, tab, created, file, description in found
        )

    def close(self) -> None:
        self._table.close()
