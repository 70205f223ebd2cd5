"""When the gossip keys change: promotion, retirement, and the issuer's rotation.

A key that has arrived is sealed with after `KEY_SETTLE_S`; keys that an expelled node may
know are deleted `KEY_RETIRE_S` after that. The issuer makes a new key when the last one is as old as the setting says
(counted from when it was made, so that a restart rotates nothing that is not due, and once if it was off for longer),
at once when somebody was expelled, and when a node asks for one because its packet counter is nearly used up.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock, Entropy
from frys_node.secure.keyring import KEY_BYTES, EpochKey
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.rotation_plan import RotationPlan

KEY_SETTLE_S = 1.0
"""From the arrival of a key to sealing with it."""

KEY_RETIRE_S = 4.0
"""From there to the deletion of the keys that an expelled node may know: packets under way still open."""

LOOK_S = 60.0
"""Longest pause between looks whether something is due."""

ASK_EVERY_S = 60.0
"""Pause between a worn node's requests for a new key."""

ASK_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


class Worn(Protocol):
    """A sealer that may need a new key (`frys_node.secure.packet`)."""

    @property
    def is_worn(self) -> bool:
        """True if a new key is wanted soon."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """True if nothing can be sealed any more."""
        ...


class KeyKeeper:
    """Promotes, retires and rotates; one task."""

    def __init__(
        self,
        secrets: MemberSecrets,
        entropy: Entropy,
        clock: Clock,
        *,
        rotate_every_s: float,
        may_rotate: Callable[[], bool],
        ask: Callable[[], Awaitable[object]],
    ) -> None:
        """`may_rotate` says whether this node is the issuer; `ask` asks the issuer for a key."""
        self._secrets = secrets
        self._entropy = entropy
        self._clock = clock
        self._may_rotate = may_rotate
        self.plan = RotationPlan(rotate_every_s)
        self.sealer: Worn | None = None
        """Whose counter is watched."""
        self._ask = ask
        self._look = trio.Event()
        self._is_running = False
        self._waiting: EpochKey | None = None
        self._promote_s = self._retire_s = float("inf")
        self._ask_s = 0.0

    def changed(self) -> None:
        """The keyring or the expulsions have changed."""
        keyring = self._secrets.keyring
        if not self._is_running:
            keyring.promote()
        now_s = trio.current_time()
        if keyring.is_settled:
            self._promote_s = float("inf")
        elif keyring.newest != self._waiting:
            self._waiting, self._promote_s = keyring.newest, now_s + KEY_SETTLE_S
        if keyring.has_retired:
            self._retire_s = min(self._retire_s, now_s + KEY_RETIRE_S)
        self._look.set()

    async def run(self) -> None:
        """Do what is due until cancelled."""
        self._is_running = True
        try:
            self.changed()
            async with trio.open_nursery() as nursery:
                while True:
                    self._look = trio.Event()
                    with trio.move_on_at(self._step(trio.current_time())):
                        await self._look.wait()
                    if self._wants_key():
                        nursery.start_soon(self._ask_for_key)
        finally:
            self._is_running = False

    def _step(self, now_s: float) -> float:
        """Do what is due; returns when to look again."""
        self._settle(now_s)
        # Each on its own: a disk that is full must not hold up what needs none.
        for due in (self._secrets.flush, self._retire, self._issue):
            try:
                due()
            except FrysError as error:
                log.error("channel.keys_not_kept", extra={"error": error.message, "fix": error.hint})
        return min(now_s + LOOK_S, self._promote_s, self._retire_s, self._rotate_s(now_s))

    def _settle(self, now_s: float) -> None:
        keyring = self._secrets.keyring
        if now_s >= self._promote_s:
            self._promote_s = float("inf")
            keyring.promote()
            if keyring.has_retired:
                self._retire_s = now_s + KEY_RETIRE_S

    def _retire(self) -> None:
        if trio.current_time() >= self._retire_s:
            self._retire_s = float("inf")
            if self._secrets.retire():
                epochs = [key.epoch for key in self._secrets.keyring.keys]
                log.info("channel.keys_retired", extra={"epochs": epochs})

    def _rotate_s(self, now_s: float) -> float:
        newest = self._secrets.keyring.newest
        if newest is None or not self._may_rotate():
            return float("inf")
        if newest.expelled < len(self._secrets.revoked):
            # A rotation for an expulsion has just failed: whoever was expelled reads on until it is made good.
            return now_s + KEY_SETTLE_S
        due_s = self.plan.due_in_s(newest, self._unix_s(), now_s)
        # Never at once: what was due has just been tried.
        return now_s + max(KEY_SETTLE_S, due_s)

    def _issue(self) -> None:
        """The issuer's part: sign what is unsigned, rotate when somebody was expelled or the time has come."""
        if not self._may_rotate():
            return
        now_s = trio.current_time()
        if self._secrets.endorse(int(self._unix_s())):
            self._secrets.on_change()
        newest = self._secrets.keyring.newest
        if newest is None:
            return
        reason = ""
        if newest.expelled < len(self._secrets.revoked):
            reason = "expulsion"
        elif self._secrets.keyring.is_settled and self.plan.due_in_s(newest, self._unix_s(), now_s) <= 0:
            reason = "age"
        if reason:
            self.rotate()
            log.info("channel.keys_rotated", extra={"reason": reason, "epoch": newest.epoch + 1})

    def rotate(self) -> None:
        """Make a key; raises as `MemberSecrets.rotate`."""
        self._secrets.rotate(self._entropy.token_bytes(KEY_BYTES), int(self._unix_s()))

    def _wants_key(self) -> bool:
        """True if this node's counter is nearly used up and the issuer was not asked just before."""
        now_s = trio.current_time()
        if self.sealer is None or not self.sealer.is_worn or now_s < self._ask_s:
            return False
        self._ask_s = now_s + ASK_EVERY_S
        log.warning("channel.counter_worn", extra={"exhausted": self.sealer.is_exhausted})
        return True

    async def _ask_for_key(self) -> None:
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                await self._ask()
        except (FrysError, trio.TooSlowError) as error:
            log.warning("channel.key_not_given", extra={"error": str(error)})

    def _unix_s(self) -> float:
        return self._clock.unix_ns() / 1e9
