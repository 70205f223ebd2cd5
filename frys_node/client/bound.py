"""How a plan becomes a method: of the trio client, of the blocking client, and of a pipeline.

Each service's plans are functions whose first argument says what they are about. ``get = Awaited(cache.get)`` in a
class makes a method of it, with the function's own parameters and docstring; the type checker sees them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from frys_node.client.calls import Plan

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class Waiter(Protocol):
    """Carries out a plan in a task."""

    async def carry_out(self, plan: Plan[T]) -> T:
        """Return what the plan returns."""
        ...


class Blocker(Protocol):
    """Carries out a plan in this thread."""

    def carry_out(self, plan: Plan[T]) -> T:
        """Return what the plan returns."""
        ...


class Collector(Protocol):
    """Takes plans for later."""

    def add(self, plan: Plan[Any]) -> int:
        """Return the place of the plan's result among the results."""
        ...


D_co = TypeVar("D_co", covariant=True)


class Handle(Generic[S_co, D_co]):
    """What a service's methods are called on: what they are about, and who carries them out."""

    def __init__(self, scope: S_co, driver: D_co) -> None:
        self.scope = scope
        self.driver = driver


class _Method(Generic[S, P, T]):
    """Base of the descriptors."""

    def __init__(self, plan: Callable[Concatenate[S, P], Plan[T]]) -> None:
        self._plan = plan
        self.__doc__ = plan.__doc__


M = TypeVar("M", bound=Callable[..., Any])


def _dressed(method: M, plan: Callable[..., Any], scope: object) -> M:
    """Give a method the plan's name and words, and its parameters without the first one, which `scope` fills."""
    functools.update_wrapper(method, plan)
    method.__dict__["__wrapped__"] = functools.partial(plan, scope)
    return method


class Awaited(_Method[S, P, T]):
    """A method that is awaited."""

    @overload
    def __get__(self, handle: None, owner: type) -> Callable[Concatenate[S, P], Plan[T]]: ...

    @overload
    def __get__(self, handle: Handle[S, Waiter], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, handle: Handle[S, Waiter] | None, owner: type) -> Any:
        """Return the method of one handle, or the plan itself."""
        plan = self._plan
        if handle is None:
            return plan

        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await handle.driver.carry_out(plan(handle.scope, *args, **kwargs))

        return _dressed(method, plan, handle.scope)


class Blocked(_Method[S, P, T]):
    """A method that returns when it is done."""

    @overload
    def __get__(self, handle: None, owner: type) -> Callable[Concatenate[S, P], Plan[T]]: ...

    @overload
    def __get__(self, handle: Handle[S, Blocker], owner: type) -> Callable[P, T]: ...

    def __get__(self, handle: Handle[S, Blocker] | None, owner: type) -> Any:
        """Return the method of one handle, or the plan itself."""
        plan = self._plan
        if handle is None:
            return plan

        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return handle.driver.carry_out(plan(handle.scope, *args, **kwargs))

        return _dressed(method, plan, handle.scope)


class Queued(_Method[S, P, T]):
    """A method that is carried out with all others of its pipeline; returns its place among the results."""

    @overload
    def __get__(self, handle: None, owner: type) -> Callable[Concatenate[S, P], Plan[T]]: ...

    @overload
    def __get__(self, handle: Handle[S, Collector], owner: type) -> Callable[P, int]: ...

    def __get__(self, handle: Handle[S, Collector] | None, owner: type) -> Any:
        """Return the method of one handle, or the plan itself."""
        plan = self._plan
        if handle is None:
            return plan

        def method(*args: P.args, **kwargs: P.kwargs) -> int:
            return handle.driver.add(plan(handle.scope, *args, **kwargs))

        return _dressed(method, plan, handle.scope)
