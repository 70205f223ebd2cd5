"""What a run waits for, and how outcomes find it. Sans-I/O: names, counters, the table of open calls, backoff.

Theory of operation. Every call, deadline and branch has a name that depends on the code alone: a branch is named by
the branch that started it (``3.1``), a call by its branch and number (``3.1:2``), an item of a map by the call and its
index (``3.1:2/17``), a deadline by the branch that entered the scope (``3.1@4``). An outcome meets its call by that
name, and wherever the two meet, name and argument check value are compared: replay with changed code is found out at
the first difference instead of going on with somebody else's result.

An outcome for a name that was used earlier (a scope cancelled the call, a branch ended) is late and ignored. An
outcome for a name that was never used is nondeterminism.
"""

from __future__ import annotations

import random
from collections import deque
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from frys_node.plugins.workflow.errors import Nondeterministic
from frys_node.plugins.workflow.journal import DeadlineFired, StepDone, StepFailed, StepStopped

S = TypeVar("S")

SIGNALS_BUFFERED_MAX = 1_000
"""Signals of one run that nobody waits for yet; more are refused at the door."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """When a step is tried again: delays grow as ``base * 2**n`` up to `cap`, each up to half shorter at random."""

    max: int = 5
    """Attempts in all, >= 1."""
    base: float = 0.2
    """Seconds before the second attempt."""
    cap: float = 30.0
    """Longest delay in seconds."""
    give_up: tuple[type[BaseException], ...] = ()
    """Exceptions that end the step at once."""

    def __post_init__(self) -> None:
        if self.max < 1 or self.base < 0 or self.cap < 0:
            raise ValueError("Retry needs max >= 1 and base, cap >= 0")

    def delay_s(self, attempt: int, rng: random.Random) -> float:
        """Return the wait after failed attempt number `attempt` (from 1)."""
        return min(self.cap, self.base * 2.0 ** min(attempt - 1, 60)) * (1 - rng.random() / 2)


ONCE = Retry(max=1)


class StepSpec(Protocol):
    """What the machine needs to know of a step."""

    @property
    def name(self) -> str:
        """Name in the journal."""
        ...

    @property
    def waits_when_cancelled(self) -> bool:
        """True if a cancelled call returns only when its body has ended."""
        ...


class RunStep(NamedTuple):
    """Effect: run the body of a step."""

    id: str
    step: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    crc: int


class StopStep(NamedTuple):
    """Effect: the workflow does not need this body any more."""

    id: str


Effect = RunStep | StopStep


class Branch:
    """One task of a run, by name. Its counters name what it does."""

    __slots__ = ("calls", "children", "host", "path", "rng", "scopes")

    def __init__(self, host: Any, path: str) -> None:
        self.host = host
        self.path = path
        self.calls = self.children = self.scopes = 0
        self.rng: random.Random | None = None


HERE: ContextVar[Branch | None] = ContextVar("frys_workflow_branch", default=None)
"""The branch of workflow code that is running, None outside. trio copies it to each task that it starts."""


class Call(Generic[S]):
    """An open call of a step, or of a map (`items` is then one call of the step for each)."""

    __slots__ = (
        "activation",
        "args",
        "crcs",
        "failed",
        "id",
        "is_map",
        "kwargs",
        "launched",
        "limit",
        "open",
        "raise_cancel",
        "results",
        "step",
        "task",
    )

    def __init__(
        self,
        id_: str,
        step: StepSpec,
        args: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        crcs: list[int],
        *,
        is_map: bool,
        limit: int,
        task: S,
        activation: int,
    ) -> None:
        self.id, self.step, self.args, self.kwargs, self.crcs = id_, step, args, kwargs, crcs
        self.is_map, self.limit, self.task, self.activation = is_map, limit, task, activation
        self.launched = 0
        self.open: dict[int, None] = {}
        self.results: dict[int, bytes] = {}
        self.failed: StepFailed | None = None
        self.raise_cancel: Any = None
        """trio's function that raises `Cancelled`, once the call is told to stop."""

    def item_id(self, index: int) -> str:
        """Name of one body."""
        return f"{self.id}/{index}" if self.is_map else self.id

    @property
    def is_stopping(self) -> bool:
        """True once no more bodies may start."""
        return self.raise_cancel is not None or self.failed is not None

    def launch(self) -> list[RunStep]:
        """Start bodies up to the limit."""
        effects: list[RunStep] = []
        while not self.is_stopping and len(self.open) < self.limit and self.launched < len(self.args):
            index = self.launched
            self.launched += 1
            if index in self.results:
                continue
            self.open[index] = None
            effects.append(self.effect(index))
        return effects

    def effect(self, index: int) -> RunStep:
        """The effect that runs one body."""
        return RunStep(self.item_id(index), self.step, self.args[index], self.kwargs, self.crcs[index])

    @property
    def is_over(self) -> bool:
        """True if the caller can go on."""
        return not self.open and (self.is_stopping or len(self.results) == len(self.args))


class Ledger(Generic[S]):
    """Names in use and open calls of one run; `S` is the scheduler's task type."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.entry_index = 0
        """Index of the journal entry being applied, for messages."""
        self.calls: dict[str, Call[S]] = {}
        self.branches: dict[str, Branch] = {}
        self.signals: dict[str, deque[bytes]] = {}
        self.signal_waiters: dict[str, deque[S]] = {}
        self.signal_ids: set[str] = set()

    # Names.

    def root(self, host: Any) -> Branch:
        """Name the first branch."""
        return self._add(host, "")

    def child(self, host: Any, parent: Branch) -> Branch:
        """Name a branch that `parent` starts."""
        parent.children += 1
        return self._add(host, f"{parent.path}.{parent.children}" if parent.path else str(parent.children))

    def _add(self, host: Any, path: str) -> Branch:
        branch = self.branches[path] = Branch(host, path)
        return branch

    def finish(self, branch: Branch) -> None:
        """Forget an ended branch; its parent's counter still knows that it was there. The root stays."""
        if branch.path:
            self.branches.pop(branch.path, None)

    def _was_branch(self, path: str) -> bool:
        while path not in self.branches:
            path, _, number = path.rpartition(".")
            parent = self.branches.get(path)
            if parent is not None:
                return number.isdigit() and int(number) <= parent.children
        return False

    def was_used(self, path: str, number: int, *, is_scope: bool = False) -> bool:
        """True if the branch has made its `number`-th call (or entered its scope), or has ended."""
        branch = self.branches.get(path)
        if branch is None:
            return self._was_branch(path)
        return number <= (branch.scopes if is_scope else branch.calls)

    # Outcomes.

    def settle(self, entry: StepDone | StepFailed | StepStopped) -> Call[S] | None:
        """Record an outcome; return its call, or None if the outcome is late. A call that `is_over` is closed.

        Raises:
            Nondeterministic: The call was never made, or is of another step or other arguments.
        """
        base, _, item = entry.id.partition("/")
        call = self.calls.get(base)
        if call is None:
            path, _, number = base.rpartition(":")
            if not number.isdigit() or not self.was_used(path, int(number)):
                raise self.mismatch(entry, None, 0)
            return None
        index = int(item) if item else 0
        if (item != "") != call.is_map or index >= len(call.args):
            raise self.mismatch(entry, call, 0)
        if call.step.name != entry.name or (not isinstance(entry, StepStopped) and call.crcs[index] != entry.crc):
            raise self.mismatch(entry, call, index)
        if isinstance(entry, StepStopped) and not call.is_stopping:
            raise self.mismatch(entry, call, index)
        if index not in call.results:
            call.open.pop(index, None)
            if isinstance(entry, StepDone):
                call.results[index] = entry.value
            elif isinstance(entry, StepFailed) and call.failed is None:
                call.failed = entry
        if call.is_over:
            del self.calls[base]
        return call

    def open_bodies(self) -> list[tuple[Call[S], int]]:
        """Every body that has no outcome yet, in order of their calls."""
        return [(call, index) for call in self.calls.values() for index in call.open]

    def mismatch(
        self, entry: StepDone | StepFailed | StepStopped, call: Call[S] | None, index: int
    ) -> Nondeterministic:
        """Build the message that shows journal and code side by side."""
        base, _, item = entry.id.partition("/")
        path, _, number = base.rpartition(":")
        where = f"entry {self.entry_index}, branch {path or 'root'}, call {number}" + (f", item {item}" if item else "")
        crc = "" if isinstance(entry, StepStopped) else f" [arguments {entry.crc:08x}]"
        code = "(no such call)"
        if call is not None:
            shown = ", ".join(_short(value) for value in call.args[min(index, len(call.args) - 1)]) if call.args else ""
            kind = "map of " if call.is_map else ""
            crc_code = f"{call.crcs[index]:08x}" if index < len(call.crcs) else "-"
            code = f"{kind}{call.step.name}({shown}) [arguments {crc_code}]"
        return Nondeterministic(
            f"run {self.run} cannot be replayed with this code ({where}):\n"
            f"  journal: {entry.name}(...){crc}\n  code:    {code}",
            hint='guard the change with ctx.patched("..."), or start new runs under a new version',
        )

    def check_deadline(self, entry: DeadlineFired) -> None:
        """Accept the firing of a deadline that is no longer armed.

        Raises:
            Nondeterministic: It was never armed.
        """
        path, _, number = entry.id.rpartition("@")
        if not number.isdigit() or not self.was_used(path, int(number), is_scope=True):
            raise Nondeterministic(
                f"run {self.run}: entry {self.entry_index} fires deadline {entry.id}, but the code opens no such "
                "deadline (was a sleep or timeout removed?)",
                hint='guard the change with ctx.patched("..."), or start new runs under a new version',
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
