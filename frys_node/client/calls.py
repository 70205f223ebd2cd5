"""One request to the cluster and what became of it.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from frys_node.base.errors import FrysError, RemoteError
from frys_node.client.errors import error_of

T = TypeVar("T")

JSON = "application/json"

Place = tuple[str, Any] | tuple[str, Any, Any]
"""What a request is about, and so who owns it: ``("cache", slot)``, ``("run", id)``, ``("point", collection, key)`` or
``("collection", name)``."""


class Call(NamedTuple):
    """One HTTP request, without a node to send it to."""

    method: str
    path: str
    """With the query, percent-encoded."""
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    place: Place | None = None
    """None: any node serves it equally well."""
    is_idempotent: bool = True
    """Done twice it leaves what it leaves when it is done once: it may be sent again when nobody knows."""
    is_patient: bool = False
    """The node may take its time to answer: it is not taken for dead meanwhile."""
    accepts: tuple[int, ...] = ()
    """Statuses of 400 and above that are answers, not errors."""


class Answer(NamedTuple):
    """What a node answered."""

    status: int
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes

    def json(self) -> Any:
        """Return the decoded body.

        Raises:
            RemoteError: It is no JSON: something that is no node of a cluster answered.
        """
        try:
            return msgspec.json.decode(self.body) if self.body else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteError(
                f"HTTP {self.status} with a body that is no JSON", hint="is there a proxy in between?"
            ) from error

    def error(self) -> FrysError:
        """Return the error that it carries."""
        try:
            value = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = None
        return error_of(value, self.status)


class Loss(Enum):
    """Why there is no answer."""

    CONNECT = "no connection"
    """Nothing was sent."""
    BROKEN = "the connection broke"
    LATE = "no answer in time"


class Failure(NamedTuple):
    """A call without an answer."""

    loss: Loss
    detail: str = ""


Outcome = Answer | Failure


Result = Answer | FrysError


class Ask(NamedTuple):
    """What a plan wants next: these calls, all at once."""

    calls: list[Call]
    timeout_s: float | None = None
    """Counted from the operation's beginning; None: within the operation's time."""
    pause_s: float = 0.0
    """To wait before the calls are made."""
    takes_errors: bool = False
    """Errors are sent in among the answers; otherwise the first one is thrown in."""


Plan = Generator[Ask, Sequence[Result], T]
"""An operation: yields what it asks and is sent the answers, in the order of the calls."""


def answers(calls: Sequence[Call], timeout_s: float | None = None) -> Plan[list[Answer]]:
    """Make calls; the first error is raised."""
    results = yield Ask(list(calls), timeout_s)
    return [result for result in results if isinstance(result, Answer)]


def answer(call: Call, timeout_s: float | None = None) -> Plan[Answer]:
    """Make one call."""
    (found,) = yield from answers([call], timeout_s)
    return found


def together(plans: Sequence[Plan[Any]]) -> Plan[list[Any]]:
    """Carry out several operations at once; what fails has its error in the place of its result."""
    steps = [Steps(plan) for plan in plans]
    results: list[Any] = [None] * len(plans)
    waiting: dict[int, Ask] = {}

    def turn(number: int, ask: Ask | None, part: Sequence[Result]) -> None:
        try:
            following = steps[number].begin() if ask is None else steps[number].go_on(ask, part)
        except FrysError as failure:
            results[number] = failure
            return
        if following is None:
            results[number] = steps[number].value
        else:
            waiting[number] = following

    for number in range(len(plans)):
        turn(number, None, ())
    while waiting:
        asks, waiting = waiting, {}
        found = yield Ask([call for ask in asks.values() for call in ask.calls], takes_errors=True)
        at = 0
        for number, ask in asks.items():
            turn(number, ask, found[at : at + len(ask.calls)])
            at += len(ask.calls)
    return results


class Steps(Generic[T]):
    """An operation that is being carried out: the one way in which both drivers turn a plan's crank."""

    def __init__(self, plan: Plan[T]) -> None:
        self._plan = plan
        self.value: T

    def begin(self) -> Ask | None:
        """Return what is asked first; None when the plan has ended, and `value` is what it returned."""
        return self._step(None, None)

    def go_on(self, ask: Ask, results: Sequence[Result]) -> Ask | None:
        """Hand over the results of an ask; returns the next one, or None at the end.

        Raises:
            FrysError: What the plan makes of an error among them.
        """
        error = next((result for result in results if isinstance(result, FrysError)), None)
        return self._step(results, None if ask.takes_errors else error)

    def _step(self, results: Sequence[Result] | None, error: FrysError | None) -> Ask | None:
        try:
            return self._plan.throw(error) if error is not None else self._plan.send(results)  # type: ignore[arg-type]
        except StopIteration as end:
            self.value = end.value
            return None


def raised(results: Sequence[Any]) -> Sequence[Any]:
    """Raise the first error among results, else return them."""
    for result in results:
        if isinstance(result, FrysError):
            raise result
    return results
