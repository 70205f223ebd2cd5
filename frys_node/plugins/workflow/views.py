"""What people see of runs: the JSON of ``/v1/runs``. Sans-I/O: built from committed rows and journal entries only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec

from frys_node.plugins.workflow.journal import Entry, Started, StepDone, StepFailed, StepStopped
from frys_node.plugins.workflow.runs import META, STATE, RunState, as_plain
from frys_node.storage.ports import RunRow

TASKS_SHOWN_MAX = 1_000
"""Most recent tasks in the view of one run; `tasks_total` counts all."""


LISTED_OUTPUT_BYTES_MAX = 256
"""Larger outputs are left out of lists."""
LISTED_MESSAGE_CHARS_MAX = 200
"""Longest error message in lists."""


class Owner(msgspec.Struct, frozen=True):
    """Who serves a run."""

    name: str
    epoch: str


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A step body that is open in this process."""

    name: str
    attempts: int
    started_at: float
    is_running: bool


def moment(unix_s: float) -> str:
    """Return a time as RFC 3339 text in UTC, with microseconds."""
    return dt.datetime.fromtimestamp(unix_s, tz=dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def summary(row: RunRow, owner: Owner) -> dict[str, Any]:
    """Return a run without its input and tasks."""
    meta = META.decode(row.meta)
    state = STATE.decode(row.state) if row.state else RunState()
    return {
        "id": row.id,
        "workflow": {"namespace": meta.namespace, "name": meta.name, "version": meta.version},
        "status": row.status,
        "output": as_plain(state.output) if state.output else None,
        "error": msgspec.to_builtins(state.error) if state.error is not None else None,
        "owner": owner.name,
        "epoch": owner.epoch,
        "created_at": moment(row.created_ns / 1e9),
        "updated_at": moment(row.updated_ns / 1e9),
        "wake_at": None if row.wake_at_s is None else moment(row.wake_at_s),
    }


def listed(row: RunRow, owner: Owner) -> dict[str, Any]:
    """Return a run for a list: `summary` with a large output left out and a long error cut."""
    view = summary(row, owner)
    if len(row.state) > LISTED_OUTPUT_BYTES_MAX and view["output"] is not None:
        view["output"], view["truncated"] = None, True
    if view["error"] is not None:
        view["error"] = {**view["error"], "message": view["error"]["message"][:LISTED_MESSAGE_CHARS_MAX], "detail": ""}
    return view


def detail(row: RunRow, entries: list[Entry], running: Mapping[str, Running], owner: Owner) -> dict[str, Any]:
    """Return a whole run: its summary, its input and its tasks in order of their ends, open ones last."""
    view = summary(row, owner)
    started = entries[0] if entries else None
    view["input"] = as_plain(started.input) if isinstance(started, Started) else None
    tasks = [task for entry in entries if (task := _task(entry)) is not None]
    ended = {task["reference"] for task in tasks}
    for reference, body in running.items():
        if reference not in ended:
            status = "running" if body.is_running else "pending"
            tasks.append(_shape(body.name, reference, status, body.attempts, started_at=body.started_at))
    view["tasks_total"] = len(tasks)
    view["tasks"] = tasks[-TASKS_SHOWN_MAX:]
    return view


def _task(entry: Entry) -> dict[str, Any] | None:
    if isinstance(entry, StepDone):
        return _shape(entry.name, entry.id, "completed", entry.attempts, started_at=entry.started_at, ended_at=entry.at)
    if isinstance(entry, StepFailed):
        error = {"type": entry.type_name, "message": entry.message, "detail": entry.detail}
        return _shape(
            entry.name, entry.id, "faulted", entry.attempts, started_at=entry.started_at, ended_at=entry.at, error=error
        )
    if isinstance(entry, StepStopped):
        return _shape(entry.name, entry.id, "cancelled", 0, ended_at=entry.at)
    return None


def _shape(
    name: str,
    reference: str,
    status: str,
    attempts: int,
    *,
    started_at: float | None = None,
    ended_at: float | None = None,
    error: dict[str, str] | None = None,
) -> dict[str, Any]:
    task = {
        "name": name,
        "reference": reference,
        "status": status,
        "attempts": attempts,
        "started_at": None if started_at is None else moment(started_at),
        "ended_at": None if ended_at is None else moment(ended_at),
    }
    return task if error is None else {**task, "error": error}
