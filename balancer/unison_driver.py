"""Waits with a durable record until it comes into force on all members at once: the driver of `unison`."""

from __future__ import annotations

from collections.abc import Callable

import trio

from balancer.record import TopologyRecord
from balancer.topology_effects import SendTopology
from balancer.topology_messages import (
    Promise,
    PromiseAsk,
    PromiseRefused,
    RecordDigest,
    RecordGo,
    RecordPush,
    RecordReady,
    Report,
    SignedRecord,
    TopologyMessage,
)
from balancer.unison import HOLD_S, WAIT_S, Unison
from frys_node.base.types import Epoch, NodeId
from frys_node.kernel.services.members import Members

Rest = RecordDigest | Report | PromiseAsk | PromiseRefused
"""What goes on to the topology machine."""

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
    ) -> None:
        """`adopted` returns the key of the record in force on this node."""
        self._node = node
        self._members = members
        self._send = send
        self._adopted = adopted
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
                while not self._state.is_ready(epoch, self._members.is_usable):
                    await self._wake.wait()
            for node in record.members():
                if node != self._node:
                    self._send(SendTopology(node, RecordGo(epoch)))
            # To adopt it takes some milliseconds of the loop, which would hold the word back.
            await trio.sleep(SAY_S)
        elif self._members.is_usable(writer):
            self._send(SendTopology(writer, RecordReady(epoch)))
            with trio.move_on_after(WAIT_S):
                while not self._state.may_adopt(epoch):
                    await self._wake.wait()

    def take(self, source: NodeId, message: TopologyMessage) -> Rest | None:
        """Take what another member shows of a record; returns the message if it is for the machine, too."""
        if isinstance(message, RecordGo):
            self._shown(message.epoch)
        elif isinstance(message, RecordReady):
            self._ready(source, message.epoch)
        elif not isinstance(message, RecordPush | Promise):
            if isinstance(message, RecordDigest) and message.epoch is not None:
                self._shown(message.epoch)
            return message
        return None

    def pushed(self, source: NodeId, record: TopologyRecord) -> None:
        """A member sent a record that was verified: only its issuer sends one that it has not adopted yet."""
        if source != record.epoch.term.node:
            self._shown(record.epoch)

    def _ready(self, source: NodeId, epoch: Epoch) -> None:
        adopted = self._adopted()
        if adopted is not None and adopted >= epoch:
            # It came late: everybody else is there already.
            self._send(SendTopology(source, RecordGo(epoch)))
            return
        self._state.ready(source, epoch)
        self._awaken()

    def _shown(self, epoch: Epoch) -> None:
        """Somebody works under that record."""
        self._state.go(epoch)
        self._awaken()

    def _awaken(self) -> None:
        self._wake.set()
        self._wake = trio.Event()
