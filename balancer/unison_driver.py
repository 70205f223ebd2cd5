"""Waits with a durable record until it comes into force on all members at once: the driver of `unison`."""

from __future__ import annotations

from collections.abc import Callable, Sized

import trio

from balancer.record import TopologyRecord
from balancer.topology_effects import SendTopology
from balancer.topology_messages import (
    RecordDigest,
    RecordGo,
    RecordPush,
    RecordReady,
    SignedRecord,
    Statement,
    UnisonWord,
)
from balancer.unison import HOLD_S, WAIT_S, Unison
from frys_node.base.types import Epoch, NodeId
from frys_node.kernel.services.members import Members

SAY_S = 0.002
"""What the issuer leaves to the channel for its word to the others, before it adopts a record itself."""


class UnisonRunner:
    """One node's part in it."""

    def __init__(
        self,
        node: NodeId,
        members: Members,
        send: Callable[[SendTopology], None],
        adopted: Callable[[], Epoch | None],
        disk_work: Sized,
    ) -> None:
        """`adopted` returns the key of the record in force on this node.

        `disk_work` is what is to be written, the record first: what comes behind it, such as a promise (rule 21) or a
        later record, does not wait for others.
        """
        self._node = node
        self._members = members
        self._send = send
        self._adopted = adopted
        self._disk_work = disk_work
        self._state = Unison()
        self._wake = trio.Event()

    def announce(self, record: TopologyRecord, signed: SignedRecord) -> None:
        """At the issuer: the register holds the record; all others may prepare for it."""
        others = [node for node in record.members() if node != self._node]
        self._state.sent(record.epoch, others)
        for node in others:
            self._send(SendTopology(node, RecordPush(signed)))

    async def wait(self, record: TopologyRecord) -> None:
        """The record could be adopted here: return when all others could as well, or have, or time is up."""
        epoch, writer = record.epoch, record.epoch.term.node
        if writer == self._node:
            with trio.move_on_after(HOLD_S):
                while not (len(self._disk_work) > 1 or self._state.is_ready(epoch, self._members.is_usable)):
                    await self._wake.wait()
            for node in record.members():
                if node != self._node:
                    self._send(SendTopology(node, RecordGo(epoch)))
            # To adopt it takes some milliseconds of the loop, which would hold the word back.
            await trio.sleep(SAY_S)
        elif self._members.is_usable(writer):
            self._send(SendTopology(writer, RecordReady(epoch)))
            with trio.move_on_after(WAIT_S):
                while not (len(self._disk_work) > 1 or self._state.may_adopt(epoch)):
                    await self._wake.wait()

    def take(self, source: NodeId, message: UnisonWord) -> None:
        """Take what another member says of a record that is about to come into force."""
        if isinstance(message, RecordGo):
            self._shown(message.epoch)
            return
        adopted = self._adopted()
        if adopted is not None and adopted >= message.epoch:
            # It came late: everybody else is there already.
            self._send(SendTopology(source, RecordGo(message.epoch)))
            return
        self._state.ready(source, message.epoch)
        self.awaken()

    def heard(self, message: Statement) -> None:
        """A member compares records, or says something else: it may work under this one already."""
        if isinstance(message, RecordDigest) and message.epoch is not None:
            self._shown(message.epoch)

    def pushed(self, source: NodeId, record: TopologyRecord) -> None:
        """A member sent a record that was verified: only its issuer sends one that it has not adopted yet."""
        if source != record.epoch.term.node:
            self._shown(record.epoch)

    def _shown(self, epoch: Epoch) -> None:
        """Somebody works under that record."""
        self._state.go(epoch)
        self.awaken()

    def awaken(self) -> None:
        """Look again whether there is anything to wait for."""
        self._wake.set()
        self._wake = trio.Event()
