"""Asking the issuer for another record when a unit that lost state needs one (rule 14)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from frys_node.base.errors import FrysError
from frys_node.base.types import Epoch

RENEWAL_S = 10.0
"""The issuer has so long to write another record before it is asked again."""

_log = logging.getLogger(__name__)


class Renewals:
    """One request at a time; the machine asks again while it waits."""

    def __init__(self, renew: Callable[[Epoch], Awaitable[None]], epoch: Callable[[], Epoch | None]) -> None:
        self._renew = renew
        self._epoch = epoch
        self._wake = trio.Event()

    def ask(self) -> None:
        """Ask soon."""
        self._wake.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            epoch = self._epoch()
            if epoch is None:
                continue
            try:
                with trio.move_on_after(RENEWAL_S):
                    await self._renew(epoch)
            except FrysError as error:
                _log.warning("replication.renewal_failed", extra={"code": error.code, "error": error.message})
