"""What authors of workflows use: `workflow`, `step`, `Retry`, `current_run`, `current_step`.

```python
import trio
from frys_node import workflow, step, Retry

@step(retry=Retry(max=5), timeout=60)
async def charge(order): ...            # the body runs at least once; its outcome is recorded once

@workflow(name="order", version="3")
async def order(ctx, o):
    receipt = await charge(o)
    pages = await ctx.map(render, o["pages"], limit=8)
    with trio.move_on_after(3600):
        await ctx.signal("approved")
```

Workflow code decides, steps do: everything that touches the world is a step. Workflow code may be run again from its
top at any moment, so it must not read clocks, randomness or the environment (`ctx.now()`, `ctx.random`, a step).
Outside a workflow a step is a plain call of its body: no journal, no retries.
"""

from __future__ import annotations

import datetime as dt
import inspect
import logging
import random
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, overload

import trio

from frys_node.base.errors import UsageError
from frys_node.plugins.workflow.errors import StepFailed
from frys_node.plugins.workflow.machine import HERE, ONCE, Branch, Retry
from frys_node.plugins.workflow.scan import scan_workflow
from frys_node.plugins.workflow.values import decode_value

__all__ = [
    "Retry",
    "Run",
    "Step",
    "StepFailed",
    "StepInfo",
    "Workflow",
    "collect",
    "current_run",
    "current_step",
    "step",
    "workflow",
]

MAP_ITEMS_MAX = 100_000
"""Most items of one `ctx.map`."""

_LOG = logging.getLogger("frys.workflow")


class StepInfo(NamedTuple):
    """What a step's body may know of itself."""

    run: str
    reference: str
    """Name of this call in the run, e.g. ``3.1:2/17``."""
    name: str
    attempt: int
    """From 1."""
    http_address: str
    """``host:port`` of this node's HTTP listener, empty if it has none: the way to the node's own services."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this call, on every node: hand it to whatever must not happen twice."""
        return f"{self.run}/{self.reference}"


STEP: ContextVar[StepInfo | None] = ContextVar("frys_workflow_step", default=None)


def current_step() -> StepInfo:
    """Return what the running step may know of itself; works in plain ``def`` steps too.

    Raises:
        UsageError: Not inside a step's body.
    """
    info = STEP.get()
    if info is None:
        raise UsageError("current_step() was called outside a step's body")
    return info


def current_run() -> Run:
    """Return the context of the workflow that is running.

    Raises:
        UsageError: Not inside workflow code.
    """
    branch = HERE.get()
    if branch is None:
        raise UsageError("current_run() was called outside workflow code", hint="steps use current_step()")
    run: Run = branch.host.context
    return run


def _return_type(function: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        # An annotation that only a type checker can resolve: the value is decoded as plain data.
        return Any


class Step:
    """A step: a function whose outcome is recorded. Made by `step`."""

    def __init__(
        self, function: Callable[..., Any], *, name: str, retry: Retry, timeout: float | None, cancel: str
    ) -> None:
        self.function = function
        self.name = name
        self.retry = retry
        self.timeout_s = timeout
        self.waits_when_cancelled = cancel == "wait"
        self.is_async = inspect.iscoroutinefunction(function)
        self._type: Any = None
        self.__name__ = name
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def __deepcopy__(self, memo: object) -> Step:
        return self

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the step: recorded inside a workflow, a plain call of the body outside."""
        branch = HERE.get()
        if branch is not None:
            return await branch.host.call(self, args, kwargs)
        if self.is_async:
            return await self.function(*args, **kwargs)
        return await trio.to_thread.run_sync(lambda: self.function(*args, **kwargs))

    def decode(self, value: bytes) -> Any:
        """Decode a journaled result to the body's return annotation."""
        if self._type is None:
            self._type = _return_type(self.function)
        return decode_value(value, self._type)


@overload
def step(function: Callable[..., Any]) -> Step: ...


@overload
def step(
    *, name: str = "", retry: Retry = ONCE, timeout: float | None = None, cancel: str = "wait"
) -> Callable[[Callable[..., Any]], Step]: ...


def step(
    function: Callable[..., Any] | None = None,
    *,
    name: str = "",
    retry: Retry = ONCE,
    timeout: float | None = None,
    cancel: str = "wait",
) -> Step | Callable[[Callable[..., Any]], Step]:
    """Make a function a step: ``@step`` or ``@step(retry=Retry(max=5), timeout=60)``.

    Args:
        function: ``async def`` runs on the node's event loop, plain ``def`` in a thread.
        name: Name in the journal; the function's name by default. It must not change while runs are open.
        retry: When to try again; once by default.
        timeout: Seconds for one attempt; a thread that overruns is left behind and its result dropped.
        cancel: ``wait`` (a cancelled call returns when its body has ended) or ``abandon`` (at once).
    """
    if cancel not in ("wait", "abandon"):
        raise UsageError(f"cancel={cancel!r}: use 'wait' or 'abandon'")
    if timeout is not None and timeout <= 0:
        raise UsageError("timeout must be above 0 seconds")

    def make(body: Callable[..., Any]) -> Step:
        return Step(body, name=name or body.__name__, retry=retry, timeout=timeout, cancel=cancel)

    return make if function is None else make(function)


class Workflow:
    """A workflow definition. Made by `workflow`."""

    def __init__(self, function: Callable[..., Any], *, namespace: str, name: str, version: str) -> None:
        self.function = function
        self.namespace = namespace
        self.name = name
        self.version = version
        self.__name__ = name
        self.__doc__ = function.__doc__
        self._type: Any = None

    def __repr__(self) -> str:
        return f"<workflow {self.namespace}/{self.name} {self.version}>"

    @property
    def key(self) -> tuple[str, str, str]:
        """Namespace, name, version."""
        return (self.namespace, self.name, self.version)

    @property
    def summary(self) -> str:
        """First line of its docstring, "" without one."""
        return (self.__doc__ or "").strip().partition("\n")[0]

    async def __call__(self, ctx: Run, value: Any) -> Any:
        """Run the code (inside a host)."""
        return await self.function(ctx, value)

    def decode_input(self, data: bytes) -> Any:
        """Decode the input to the annotation of the second parameter.

        Raises:
            NotJournalable: The input does not fit.
        """
        if self._type is None:
            try:
                hints = typing.get_type_hints(self.function)
            except (NameError, TypeError):
                hints = {}
            names = list(inspect.signature(self.function).parameters)
            self._type = hints.get(names[1], Any) if len(names) > 1 else Any
        return decode_value(data, self._type)


def workflow(*, name: str, version: str = "1", namespace: str = "default") -> Callable[[Callable[..., Any]], Workflow]:
    """Make ``async def f(ctx, input)`` a workflow. Known nondeterminism in its code is refused here.

    Raises:
        UsageError: Not an async function of two parameters, or it calls something that differs on replay.
    """
    for label, text in (("name", name), ("version", version), ("namespace", namespace)):
        if not text or len(text) > 128 or "/" in text or not text.isprintable():
            raise UsageError(f"workflow {label} {text!r}: use 1-128 printable characters without '/'")

    def make(function: Callable[..., Any]) -> Workflow:
        if not inspect.iscoroutinefunction(function) or len(inspect.signature(function).parameters) != 2:
            raise UsageError(f"workflow {name!r} must be an `async def` with two parameters: ctx and its input")
        problems = scan_workflow(function)
        if problems:
            raise UsageError(f"workflow '{name}' " + "; ".join(problems))
        return Workflow(function, namespace=namespace, name=name, version=version)

    return make


class _ReplayLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs once: silent while a run is rebuilt."""

    def __init__(self, host: Any) -> None:
        super().__init__(_LOG, {})
        self._host = host

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Name the run in every line."""
        return f"run {self._host.run}: {msg}", kwargs

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  stdlib's name
        return not (self._host.is_replaying or self._host.is_evicting) and super().isEnabledFor(level)


class Run:
    """`ctx`: what workflow code may ask of the engine."""

    def __init__(self, host: Any, *, run: str, workflow: Workflow, started_at: float) -> None:
        self._host = host
        self.id = run
        self.name = workflow.name
        self.version = workflow.version
        self.started_at = started_at
        """Unix seconds."""
        self.log: logging.LoggerAdapter[logging.Logger] = _ReplayLogger(host)
        """A logger that is silent during replay."""

    def _branch(self) -> Branch:
        branch = HERE.get()
        if branch is None or branch.host is not self._host:
            raise UsageError("ctx was used outside its run", hint="pass plain values to steps")
        self._host.check_alive()
        return branch

    async def map(self, of: Any, items: Iterable[Any], *, limit: int = 16) -> list[Any]:
        """Call a step for each item, at most `limit` at a time; results in the items' order.

        If one fails for good, the others are stopped and its `StepFailed` is raised.
        """
        self._branch()
        listed = list(items)
        if not isinstance(of, Step) or limit < 1 or len(listed) > MAP_ITEMS_MAX:
            raise UsageError(f"ctx.map needs a @step, limit >= 1 and at most {MAP_ITEMS_MAX} items")
        results: list[Any] = await self._host.map(of, listed, limit)
        return results

    async def signal(self, name: str, type: Any = Any) -> Any:  # noqa: A002  reads as English at the call
        """Wait for a signal (`POST /v1/runs/{id}/signals/{name}`) and return its value; early ones are kept."""
        self._branch()
        return decode_value(await self._host.signal(name), type)

    @property
    def random(self) -> random.Random:
        """A generator seeded by the run and the branch: the same numbers in every replay."""
        branch = self._branch()
        if branch.rng is None:
            branch.rng = random.Random(f"{self.id}|{branch.path}")
        return branch.rng

    def now(self) -> dt.datetime:
        """UTC now: the time of the event that woke the run; it stands still between awaits."""
        self._branch()
        return dt.datetime.fromtimestamp(self._host.now, tz=dt.UTC)

    def uuid4(self) -> uuid.UUID:
        """Return a UUID that is the same in every replay."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def patched(self, key: str) -> bool:
        """True for runs that have not passed this line under older code: ``if ctx.patched("2026-12-email"): ...``."""
        self._branch()
        answer: bool = self._host.patched(key)
        return answer

    def idempotency_key(self, name: str) -> str:
        """Return a key for `name` that is unique to this run and the same in every replay."""
        return f"{self.id}/{name}"


def collect(namespace: Mapping[str, Any]) -> list[Workflow]:
    """Return the workflows among a module's names, in order of definition."""
    found: dict[int, Workflow] = {}
    for value in namespace.values():
        if isinstance(value, Workflow):
            found[id(value)] = value
    return list(found.values())
