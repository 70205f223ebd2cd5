"""What a client knows of the cluster between its operations: the table, who did not answer, whom to ask next.

Sans-I/O. Shared by every operation of one client; the driver gives the time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from frys_node.base.errors import RemoteError
from frys_node.base.types import Address
from frys_node.client.calls import Answer, Place
from frys_node.client.table import UNUSABLE, EpochKey, Server, Table, epoch_key

T = TypeVar("T")

DOWN_S = 1.0
"""How long a node that did not answer is passed over while another one can be asked."""

REFRESH_S = 30.0
"""Age at which the table is asked for again although no answer named a newer epoch: rumours of health grow old."""

REFRESH_PAUSE_S = 0.2
"""Pause between two looks for a record that the nodes asked so far have not got yet."""

EPOCH_HEADER = "x-frys-epoch"

LOOPBACK = ("127.", "::1", "localhost")


def is_loopback(address: Address) -> bool:
    """True if the address can only be this machine."""
    return address.host.lower().startswith(LOOPBACK)


class Core:
    """The client's knowledge. `straight` False: the seeds are asked for everything, and no table is kept."""

    def __init__(self, seeds: Sequence[Address], *, straight: bool = True) -> None:
        self.seeds = list(seeds)
        self.straight = straight
        self.table: Table | None = None
        self._servers: list[Server] = []
        self._near: frozenset[Address] = frozenset()
        self._newest: EpochKey | None = None
        self._down_until_s: dict[Address, float] = {}
        self._turn = 0
        self._seen_s = 0.0
        self._refresh_at_s = 0.0
        self._refresh_not_before_s = 0.0

    # ------------------------------------------------------------------ what is known

    def is_stale(self, now_s: float) -> bool:
        """True if the table should be asked for before anything else is."""
        self._seen_s = now_s
        if not self.straight or now_s < self._refresh_not_before_s:
            return False
        if self.table is None or now_s >= self._refresh_at_s:
            return True
        return self._newest is not None and self._newest > self.table.epoch

    def doubt(self) -> None:
        """Take the table for old: a node said so."""
        self._refresh_at_s = self._refresh_not_before_s = 0.0

    def settle(self, now_s: float) -> None:
        """Go on with the table at hand: nobody has a newer one to give for now."""
        self._refresh_not_before_s = max(self._refresh_not_before_s, now_s + REFRESH_PAUSE_S)

    def heard(self, answer: Answer) -> None:
        """Note the epoch that an answer names."""
        epoch = epoch_key(answer.headers.get(EPOCH_HEADER, ""))
        if epoch is not None and (self._newest is None or epoch > self._newest):
            self._newest = epoch

    def learn(self, data: bytes, now_s: float) -> None:
        """Take a table, unless it is older than the one at hand.

        Raises:
            RemoteError: It is none.
        """
        table = Table(data)
        self._refresh_at_s, self._refresh_not_before_s = now_s + REFRESH_S, now_s + REFRESH_PAUSE_S
        if self.table is not None and table.epoch < self.table.epoch:
            return
        self.table = table
        self._servers = [server for server in table.addresses() if self._is_near(server)]
        self._near = frozenset(server.address for server in self._servers)
        if not self._servers and not self.seeds:
            raise RemoteError("no node of the cluster serves HTTP where this client could reach it")

    def _is_near(self, server: Server) -> bool:
        """False for a node on another machine's loopback."""
        return not is_loopback(server.address) or any(map(is_loopback, self.seeds))

    # ------------------------------------------------------------------ whom to ask

    def failed(self, address: Address, now_s: float) -> None:
        """Pass a node over for a while."""
        self._down_until_s[address] = now_s + DOWN_S
        self._refresh_at_s = min(self._refresh_at_s, now_s + DOWN_S)

    def works(self, address: Address) -> None:
        """Note that a node answered."""
        self._down_until_s.pop(address, None)

    def pick(self, place: Place | None, now_s: float, avoid: Collection[Address] = ()) -> Address | None:
        """Return whom to ask: an owner that does well, else any node; None when all of them are to be avoided."""
        holders = self._holders(place)
        if place is None or place[0] == "collection":
            holders = self._turned(holders)
        for server in holders:
            if not server.rank and server.address not in avoid and self._is_up(server.address, now_s):
                return server.address
        others = self._turned([server for server in self._servers if server.rank < UNUSABLE])
        ranked = sorted(holders, key=lambda server: server.rank) + sorted(others, key=lambda server: server.rank)
        ordered = dict.fromkeys([*(server.address for server in ranked), *self._turned(self.seeds)])
        open_ = [address for address in ordered if address not in avoid]
        for address in open_:
            if self._is_up(address, now_s):
                return address
        return min(open_, key=lambda address: self._down_until_s[address], default=None)

    def _is_up(self, address: Address, now_s: float) -> bool:
        return self._down_until_s.get(address, 0.0) <= now_s

    def owner(self, place: Place) -> Address | None:
        """Return whom to ask, as of the last look at the clock: batches are split by it."""
        return self.pick(place, self._seen_s)

    def _holders(self, place: Place | None) -> list[Server]:
        if self.table is None or place is None:
            return []
        near = self._near
        return [server for server in self.table.holders(place) if server.rank < UNUSABLE and server.address in near]

    def spread(self) -> None:
        """Let what has no owner go to another node from now on."""
        self._turn += 1

    def _turned(self, items: list[T]) -> list[T]:
        start = self._turn % len(items) if items else 0
        return items[start:] + items[:start]
