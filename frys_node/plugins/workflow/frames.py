"""Tracebacks of workflow code for people: frames of users, without those of the engine and of trio."""

from __future__ import annotations

from types import FrameType, TracebackType
from typing import Any

import outcome
import trio

from frys_node.plugins.workflow.errors import Evicted, NotJournalable
from frys_node.plugins.workflow.journal import Ended
from frys_node.plugins.workflow.values import OUTPUT_BYTES_MAX, encode_value

DETAIL_FRAMES_MAX = 5
"""Frames of user code kept with an error."""


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions inside nested groups, in order, without cancellations (their texts hold addresses)."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [] if isinstance(error, trio.Cancelled | Evicted) else [error]


_OWN = (__file__.rpartition("/")[0] + "/", trio.__file__.rpartition("/")[0] + "/", "/contextlib.py")


def _is_user(filename: str) -> bool:
    return not any(own in filename for own in _OWN)


def user_line(frame: FrameType | None) -> str:
    """Return ``file:line`` of the innermost frame of user code."""
    while frame is not None:
        if _is_user(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown line"


def task_line(task: Any) -> str:
    """Return ``file:line`` where a task waits."""
    line = "its start"
    for frame, number in task.iter_await_frames():
        if _is_user(frame.f_code.co_filename):
            line = f"{frame.f_code.co_filename.rpartition('/')[2]}:{number}"
    return line


def describe_traceback(error: BaseException) -> str:
    """Return the last frames of user code of an exception, one a line."""
    lines = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if _is_user(code.co_filename):
            lines.append(f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    return "\n".join([*lines[-DETAIL_FRAMES_MAX:], *getattr(error, "__notes__", ())])


def ended_by(result: outcome.Outcome[object], at: float, *, is_cancelled: bool) -> Ended:
    """Describe how the root of a run ended."""
    if isinstance(result, outcome.Value):
        try:
            return Ended(at, "completed", encode_value(result.value, "the workflow's result", OUTPUT_BYTES_MAX))
        except NotJournalable as error:
            return Ended(at, "faulted", type_name="NotJournalable", message=error.message)
    error_ = result.error  # type: ignore[attr-defined]
    found = leaves(error_)
    if not found:
        reason = "the run was cancelled"
        return Ended(at, "cancelled" if is_cancelled else "faulted", type_name="Cancelled", message=reason)
    first = found[0]
    type_name = getattr(first, "type_name", "") or type(first).__name__
    message = "; ".join(str(leaf) or type(leaf).__name__ for leaf in found)
    return Ended(at, "faulted", type_name=type_name, message=message[:4_000], detail=describe_traceback(first))
