"""Calls to the issuer that only the issuer can answer, with what to do while it does not.

The balancer says what waits of its own; whoever asks for keys, tokens, expulsions or another authority has to be told
that these wait too, and how the role goes to another node if the issuer is gone for good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from frys_node.base.errors import IssuerUnreachable

PROMOTE_FIX = (
    "it waits until the issuer is back; if it is gone for good, run on a member that holds the authority's key:"
    " frys-node issuer promote"
)


def issuer_calls(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return `ask` with errors that name the way out; `ask` is `BalancerComponent.ask_issuer`."""

    async def call(*arguments: Any) -> Any:
        try:
            return await ask(*arguments)
        except IssuerUnreachable as error:
            raise IssuerUnreachable(error.message, hint=PROMOTE_FIX) from error

    return call
