"""A static scan of workflow code for calls that differ on replay. Runs when `@workflow` decorates.

It reads byte code: the function, what is nested in it, and plain functions of the same module that it names. Names
are resolved through the module's globals as they are at that moment; what is defined later is caught by replay
checks instead. The scan is a spelling checker, not a proof.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterator
from typing import Any

_OFFENDERS = {
    "time.time": "use ctx.now()",
    "time.time_ns": "use ctx.now()",
    "time.monotonic": "use trio.current_time()",
    "time.monotonic_ns": "use trio.current_time()",
    "time.perf_counter": "measure inside a @step",
    "time.sleep": "use trio.sleep()",
    "datetime.datetime.now": "use ctx.now()",
    "datetime.datetime.utcnow": "use ctx.now()",
    "datetime.datetime.today": "use ctx.now()",
    "datetime.date.today": "use ctx.now()",
    "uuid.uuid1": "use ctx.uuid4()",
    "uuid.uuid4": "use ctx.uuid4()",
    "os.urandom": "use ctx.random",
    "os.getenv": "read it in a @step, or pass it as input",
    "os.environ": "read it in a @step, or pass it as input",
    "os.getpid": "put it in a @step",
    "os.system": "put it in a @step",
    "builtins.open": "put it in a @step",
    "builtins.input": "put it in a @step",
    "threading.Thread": "use a nursery",
}
_MODULES = {
    "random": "use ctx.random",
    "secrets": "use ctx.random",
    "socket": "put it in a @step",
    "subprocess": "put it in a @step",
    "asyncio": "use trio",
    "requests": "put it in a @step",
    "sqlite3": "put it in a @step",
}
_FINE = {"random.Random"}
_DEPTH_MAX = 4


def scan_workflow(function: Callable[..., Any]) -> list[str]:
    """Return a sentence for each known offender: line, call, replacement; in order of lines, each once."""
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    names: dict[str, Any] = {**vars(_BUILTINS), **function.__globals__}
    problems: dict[str, None] = {}
    for line, path in _scan(code, names, function.__module__, set(), 0):
        advice = _OFFENDERS.get(path) or _MODULES.get(path.partition(".")[0])
        if advice is not None and path not in _FINE:
            problems[f"line {line} uses {path.removeprefix('builtins.')}, which differs on replay: {advice}"] = None
    return list(problems)


_BUILTINS = __import__("builtins")


def _scan(
    code: types.CodeType, names: dict[str, Any], module: str, seen: set[types.CodeType], depth: int
) -> Iterator[tuple[int, str]]:
    if code in seen or depth > _DEPTH_MAX:
        return
    seen.add(code)
    line = code.co_firstlineno
    value: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.starts_line is not None:
            line = instruction.starts_line
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = names.get(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and value is not None:
            value = getattr(value, str(instruction.argval), None)
        else:
            value = None
        if value is None:
            continue
        path = _path(value, names)
        if path:
            yield line, path
        inner = getattr(value, "__code__", None)
        if isinstance(value, types.FunctionType) and inner is not None and value.__module__ == module:
            yield from _scan(inner, {**vars(_BUILTINS), **value.__globals__}, module, seen, depth + 1)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _scan(constant, names, module, seen, depth + 1)


def _path(value: Any, names: dict[str, Any]) -> str:
    """Return ``module.name`` of a function or class that might offend, "" for everything else."""
    if value is names.get("open") and getattr(value, "__module__", "") in ("io", "_io"):
        return "builtins.open"
    owner = getattr(value, "__self__", None)
    name = getattr(value, "__name__", "")
    if isinstance(owner, type) and owner.__module__ == "datetime":
        return f"datetime.{owner.__name__}.{name}"
    if type(value).__name__ == "_Environ":
        return "os.environ"
    if callable(value) and owner is not None and type(owner).__name__ == "Random" and not isinstance(owner, type):
        return f"random.{name}"
    home = getattr(value, "__module__", "") or getattr(owner, "__name__", "")
    home = {"posix": "os", "_random": "random", "_socket": "socket"}.get(home, home)
    return f"{home}.{name}" if callable(value) and isinstance(home, str) and name else ""
