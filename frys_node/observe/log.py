"""Structured logs over stdlib `logging`: JSON lines off a terminal, readable lines on one (D12).

An event is named ``package.past_fact`` and carries keyword fields with their unit in the name. Machines never
log; drivers log effects. ERROR means that a human must act. Registered secrets never reach a line. Packages that
may not import this module log with plain `logging` and ``extra=``: their lines look the same.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

SECRET_CHARS_MIN = 8
"""Shorter values are not redacted: they would blank out ordinary words."""

TRACEBACK_CHARS_MAX = 16_384
REDACTED = "[redacted]"

_FIELDS = "frys_fields"
_ROOT = "frys"
_ROOTS = (_ROOT, "frys_node", "membership", "balancer", "snapshots")
"""Our loggers: those made by `get_logger`, and those that packages name after their modules."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", _FIELDS}
"""What every record has: anything else came with ``extra=``."""
_secrets: set[str] = set()
_fields: dict[str, Any] = {}


class Logger:
    """Writes events with fields; the level check comes first, so a disabled event costs next to nothing."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: Any) -> None:
        """What only a developer wants to see."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """A fact an operator may want to see."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is off and the node copes."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """A human must act."""
        self._write(logging.ERROR, event, fields)

    def failed(self, event: str, error: BaseException, **fields: Any) -> None:
        """A warning with the error's text and, at debug level, its traceback with every member of a group."""
        if self._logger.isEnabledFor(logging.DEBUG):
            fields["traceback"] = "".join(traceback.format_exception(error))[-TRACEBACK_CHARS_MAX:]
        else:
            fields["traceback"] = _where(error)
        self._write(logging.WARNING, event, {"error": describe(error), **fields})

    def _write(self, level: int, event: str, fields: Mapping[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={_FIELDS: fields})


def get_logger(name: str) -> Logger:
    """Return the logger of a module: pass ``__name__``."""
    return Logger(logging.getLogger(f"{_ROOT}.{name.removeprefix('frys_node.')}"))


def describe(error: BaseException) -> str:
    """Return an error in one line; a group's members are listed."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(member) for member in error.exceptions)
    text = str(getattr(error, "message", error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def register_secret(value: str) -> None:
    """Never write this value again: tokens and passwords, as soon as they are read."""
    if len(value) >= SECRET_CHARS_MIN:
        _secrets.add(value)


def redact(text: str) -> str:
    """Return the text without any registered secret."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts level event``, the node's fields, the event's fields."""

    def __init__(self, base: Mapping[str, Any]) -> None:
        super().__init__()
        self._base = dict(base)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {"ts": _instant(record.created), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= self._base
        line |= _fields_of(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-TRACEBACK_CHARS_MAX:]
        return redact(json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """One line for people: time, level, event, ``key=value`` fields; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = _fields_of(record)
        tail = str(fields.pop("traceback", "") or "")
        if record.exc_info:
            tail = self.formatException(record.exc_info)
        parts = [_instant(record.created)[11:23], f"{record.levelname.lower():<7}", record.getMessage()]
        parts += [f"{key}={_quoted(value)}" for key, value in fields.items()]
        text = " ".join(parts)
        return redact(f"{text}\n{tail.rstrip()}" if "\n" in tail else f"{text} at={tail}" if tail else text)


def configure(
    *, level: str = "info", form: str = "auto", stream: TextIO | None = None, fields: Mapping[str, Any] | None = None
) -> None:
    """Send frys' events to a stream (standard error). Calling it again replaces the former settings.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``json``, ``text``, or ``auto``: text on a terminal, else JSON.
        stream: Where lines go.
        fields: Added to every JSON line, such as ``node`` and ``cluster``; None keeps those of the last call.
    """
    if fields is not None:
        _fields.clear()
        _fields.update(fields)
    out = stream if stream is not None else sys.stderr
    is_json = form == "json" or (form == "auto" and not out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter(_fields) if is_json else TextFormatter())
    for name in _ROOTS:
        root = logging.getLogger(name)
        for old in list(root.handlers):
            root.removeHandler(old)
        root.addHandler(handler)
        root.setLevel(level.upper())
        root.propagate = False


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return extra | getattr(record, _FIELDS, {})


def _instant(created: float) -> str:
    return dt.datetime.fromtimestamp(created, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: Any) -> str:
    text = str(value)
    if text and text.isprintable() and not any(c in text for c in ' "'):
        return text
    # Names come from other members, and a terminal obeys what it is sent.
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _where(error: BaseException) -> str:
    """Return file and line of the innermost frame; of the first member, for a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
