"""The table of jobs: which runs wait, work or have ended, in one SQLite file that a crash leaves whole.

    queued -> starting -> running -> stopping -> stopped | finished | failed | interrupted

`stop` only asks: an end is written by whoever saw the process end (`monitor`). Order in the queue is a counter, never a
clock. The runs' folders are the truth: a lost or damaged table is made again from them.
Knows no processes beyond their names, and starts none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.database import RebuildableTable
from studio.runs.process import Process

State = Literal["queued", "starting", "running", "stopping", "stopped", "finished", "failed", "interrupted"]
ACTIVE: tuple[State, ...] = ("starting", "running", "stopping")
ENDED: tuple[State, ...] = ("stopped", "finished", "failed", "interrupted")

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE jobs (
    run_id TEXT PRIMARY KEY, state TEXT NOT NULL, place INTEGER NOT NULL, pid INTEGER, started TEXT, boot_id TEXT,
    events_offset INTEGER NOT NULL DEFAULT 0, requeue INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    last_lines TEXT NOT NULL DEFAULT '[]', changed REAL NOT NULL
) WITHOUT ROWID;
"""
COLUMNS = ("run_id", "state", "place", "pid", "started", "boot_id", "events_offset", "requeue", "reason", "last_lines",
           "changed")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run's row. `place` orders the queue, `events_offset` is where this start's events begin, `requeue` says that
    the run goes back into the queue once it has stopped, `changed` is for show (seconds since the epoch)."""

    run_id: str
    state: State
    place: int = 0
    process: Process | None = None
    events_offset: int = 0
    requeue: bool = False
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    changed: float = 0.0


class Jobs:
    """The table of one database file; every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._table = RebuildableTable(
            path, name="jobs", title="The table of runs", schema=SCHEMA, version=SCHEMA_VERSION
        )

    # --- reading ---

    def get(self, run_id: str) -> Job | None:
        """The row of a run, `None` if it has none."""
        found = self._select("run_id = ?", (run_id,))
        return found[0] if found else None

    def all(self) -> tuple[Job, ...]:
        """Every row, in the order of the queue."""
        return self._select("1", ())

    def in_state(self, *states: State) -> tuple[Job, ...]:
        """The rows in these states, in the order of the queue."""
        return self._select(f"state IN ({', '.join('?' * len(states))})", states)

    # --- writing ---

    def enqueue(self, run_id: str) -> bool:
        """A new or an ended run to the end of the queue; whether it went there (False: it is there or at work)."""
        with self._table.transaction() as connection:
            found = connection.execute("SELECT state FROM jobs WHERE run_id = ?", (run_id,)).fetchone()
            if found and found[0] not in ENDED:
                return False
            place = connection.execute("SELECT COALESCE(MAX(place), 0) + 1 FROM jobs").fetchone()[0]
            connection.execute(
                "INSERT OR REPLACE INTO jobs (run_id, state, place, changed) VALUES (?, 'queued', ?, ?)",
                (run_id, place, time.time()),
            )
        return True

    def put(self, job: Job) -> None:
        """A row as it is, for what a reconciliation finds."""
        process = job.process
        values = (
            job.run_id, job.state, job.place, *((process.pid, process.started, process.boot_id) if process else
            (None, None, None)), job.events_offset, job.requeue, job.reason, json.dumps(job.last_lines), time.time(),
        )  # fmt: skip
        with self._table.transaction() as connection:
            connection.execute(f"INSERT OR REPLACE INTO jobs VALUES ({', '.join('?' * len(COLUMNS))})", values)

    def move(self, run_id: str, to: State, *, only_from: Iterable[State], **fields: Any) -> bool:
        """To another state, if the row is in one of `only_from`; whether it was. `fields` are columns to set too."""
        if "process" in fields:
            process = fields.pop("process")
            fields |= {"pid": process.pid, "started": process.started, "boot_id": process.boot_id}
        if "last_lines" in fields:
            fields["last_lines"] = json.dumps(fields["last_lines"])
        fields |= {"state": to, "changed": time.time()}
        assert set(fields) <= set(COLUMNS)
        states = tuple(only_from)
        assignments = ", ".join(f"{name} = ?" for name in fields)
        query = f"UPDATE jobs SET {assignments} WHERE run_id = ? AND state IN ({', '.join('?' * len(states))})"
        with self._table.transaction() as connection:
            return connection.execute(query, (*fields.values(), run_id, *states)).rowcount == 1

    def remove(self, run_id: str, *, only_from: Iterable[State] = (*ENDED, "queued")) -> bool:
        """Forget a run that is not at work; whether it could be."""
        states = tuple(only_from)
        query = f"DELETE FROM jobs WHERE run_id = ? AND state IN ({', '.join('?' * len(states))})"
        with self._table.transaction() as connection:
            return connection.execute(query, (run_id, *states)).rowcount == 1

    def close(self) -> None:
        """Close the file; nothing may be asked afterwards."""
        self._table.close()

    def _select(self, where: str, values: tuple[Any, ...]) -> tuple[Job, ...]:
        """`where` is put together from this module's own words; values are always bound."""
        query = f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE {where} ORDER BY place"
        rows = self._table.rows(query, values)
        return tuple(_job(dict(zip(COLUMNS, row, strict=True))) for row in rows)


def _job(row: dict[str, Any]) -> Job:
    pid, started, boot = row.pop("pid"), row.pop("started"), row.pop("boot_id")
    process = None if pid is None else Process(pid=pid, started=started, boot_id=boot)
    return Job(
        **{**row, "requeue": bool(row["requeue"]), "last_lines": tuple(json.loads(row["last_lines"]))}, process=process
    )
