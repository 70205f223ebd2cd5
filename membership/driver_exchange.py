"""State exchange (push-pull) over the channel: whole tables, in pieces, a few peers at a time.

Both sides are stateless between the pieces: each request says where the asker's table goes on and from where it wants
the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import msgspec
import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.observe.log import get_logger
from frys_node.wire.codec import Message
from membership.agreement import SETTINGS_CHARS_MAX, Agreement
from membership.driver_errands import Errands
from membership.effects import AskVoices, Effect, PushPull
from membership.held import ASKED_MAX
from membership.machine import Membership
from membership.messages import NOBODY, STATEMENT_BYTES_MAX, SYNC_PLAIN_BYTES_MAX, SYNC_UPDATES_MAX, Sync
from membership.packing import PackedCodec

COMPRESS_ABOVE_BYTES = 1_024
"""Longer pieces travel compressed: names, addresses and ids repeat, so a third is left."""


class _PushPull(Method[Sync, Sync]):
    """The state exchange, compressed both ways."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("membership.push_pull", Sync, Sync)
        self.request = self.reply = PackedCodec(Sync, SYNC_PLAIN_BYTES_MAX, COMPRESS_ABOVE_BYTES)


PUSH_PULL = _PushPull()
"""Here is my table, or a piece of it; give me yours."""


class Settings(Message, frozen=True):
    """What all members should have alike (`membership.agreement`)."""

    text: Annotated[str, msgspec.Meta(max_length=SETTINGS_CHARS_MAX)]


SETTINGS: Method[Settings, Settings] = Method("membership.settings", Settings, Settings)
"""Here are my settings; give me yours. A member of an older version does not know this, and is not compared."""


class AskedVoices(Message, frozen=True):
    """Whose voices the asker wants to know."""

    nodes: Annotated[tuple[Annotated[NodeId, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=ASKED_MAX)]


class Statements(Message, frozen=True):
    """What is known of them (`membership.voices`), as many as one answer holds."""

    statements: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=STATEMENT_BYTES_MAX)], ...], msgspec.Meta(max_length=ASKED_MAX)
    ]


VOICES: Method[AskedVoices, Statements] = Method("membership.voices", AskedVoices, Statements)
"""Whose voices are these?"""

EXCHANGES_MAX = 8
"""Exchanges under way at once."""

EXCHANGES_WAITING_MAX = 64
"""Exchanges that may wait for their turn; more are dropped, counted, and asked for again by the machine."""

EXCHANGE_TIMEOUT_S = 10.0

INFORMANTS_MAX = 2
"""Members with a connection that are asked for a voice before one is made to whoever spoke of it."""

_LOG = get_logger(__name__)


class StateExchange:
    """Performs the exchanges of one node."""

    def __init__(
        self,
        *,
        machine: Membership,
        clock: Clock,
        rpc: Rpc,
        learn: Callable[[NodeId, Address], None],
        perform: Callable[[Iterable[Effect]], None],
        drop: Callable[[str], None],
        agreement: Agreement,
        is_connected: Callable[[NodeId], bool],
    ) -> None:
        self._machine = machine
        self._is_connected = is_connected
        self._clock = clock
        self._rpc = rpc
        self._learn = learn
        self._perform = perform
        self._drop = drop
        self._agreement = agreement
        self._compared: dict[NodeId, int] = {}
        """The boot whose settings are known, of each member."""
        self._under_way: dict[NodeId, Address] = {}
        self._asking: dict[NodeId, dict[NodeId, None]] = {}
        """Whose voices each node is to be asked for, beside the question that is under way."""
        self._missed: dict[NodeId, None] = {}
        """Voices that nobody who was asked knew, the latest last."""
        self._limit = trio.CapacityLimiter(EXCHANGES_MAX)
        self._pieces_max = 2 * machine.members_max // SYNC_UPDATES_MAX + 2
        self._errands = Errands()
        rpc.serve(PUSH_PULL, self._answer)
        rpc.serve(SETTINGS, self._answer_settings)
        rpc.serve(VOICES, self._answer_voices)

    def __len__(self) -> int:
        """Exchanges under way or waiting."""
        return len(self._under_way)

    def start(self, nursery: trio.Nursery) -> None:
        """Run exchanges in the nursery from now on."""
        self._errands.start(nursery)

    def perform(self, effect: PushPull | AskVoices) -> None:
        """Carry out one effect of the machine, in the background."""
        match effect:
            case PushPull(node, address):
                self.begin(node, address)
            case AskVoices(node, voices):
                self._ask_voices(node, voices)

    def begin(self, node: NodeId, address: Address) -> None:
        """Exchange with a node in the background; nothing happens if that is under way."""
        if not self._errands.is_running or node in self._under_way:
            return
        if len(self._under_way) >= EXCHANGES_WAITING_MAX:
            self._drop("exchange_refused")
            return
        self._under_way[node] = address
        self._errands.begin(self._run, node, address)

    def _ask_voices(self, node: NodeId, voices: tuple[NodeId, ...]) -> None:
        """Ask a node for voices, with the next question if one is under way."""
        if not self._errands.is_running:
            return
        waiting = self._asking.get(node)
        if waiting is not None:
            waiting.update(dict.fromkeys(voices))
        elif len(self._asking) >= EXCHANGES_WAITING_MAX:
            self._drop("exchange_refused")
        else:
            self._asking[node] = dict.fromkeys(voices)
            self._errands.begin(self._learn_voices, node)

    async def _learn_voices(self, node: NodeId) -> None:
        try:
            while wanted := tuple(self._asking[node])[:ASKED_MAX]:
                for voice in wanted:
                    del self._asking[node][voice]
                with trio.fail_after(EXCHANGE_TIMEOUT_S):
                    await self._ask(self._informants(node), wanted)
                    missing = self._missing(wanted)
                    again = tuple(voice for voice in missing if voice in self._missed)
                    if again and not self._is_connected(node):
                        await self._ask([node], again)
                    self._missed = {v: None for v in (*self._missed, *missing) if v not in wanted or v in missing}
                    while len(self._missed) > ASKED_MAX:
                        del self._missed[next(iter(self._missed))]
        except (FrysError, trio.TooSlowError) as error:
            # The machine asks again, as long as it wants to know.
            self._drop("exchange_failed")
            _LOG.debug("membership.voices_unknown", peer_id=node, error=str(error))
        finally:
            del self._asking[node]

    async def _ask(self, informants: Sequence[NodeId], wanted: tuple[NodeId, ...]) -> None:
        for informant in informants:
            if wanted := self._missing(wanted):
                reply = await self._rpc.call(informant, VOICES, AskedVoices(wanted))
                self._perform(self._machine.learn_voices(reply.statements, self._clock.now_s()))

    def _missing(self, voices: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        return tuple(voice for voice in voices if not self._machine.exchange.statements((voice,)))

    def _informants(self, node: NodeId) -> list[NodeId]:
        """Return whom to ask: whoever told the claim, or members with a connection, where it has none.

        When many are new at once, each has a connection to few, and those will know in a moment: one to the teller is
        made only for what they do not know the second time.
        """
        connected = [view.id for view in self._machine.views() if self._is_connected(view.id)]
        return [node] if node in connected or not connected else connected[:INFORMANTS_MAX]

    async def _answer_voices(self, _caller: NodeId, request: AskedVoices) -> Statements:
        await trio.lowlevel.checkpoint()
        return Statements(self._machine.exchange.statements(request.nodes))

    async def _run(self, node: NodeId, address: Address) -> None:
        try:
            async with self._limit:
                self._learn(node, address)
                with trio.move_on_after(EXCHANGE_TIMEOUT_S) as scope:
                    await self._push_pull(node)
                    await self._agree(node)
                if scope.cancelled_caught:
                    self._drop("exchange_failed")
        except FrysError as error:
            self._drop("exchange_failed")
            _LOG.debug("membership.exchange_failed", peer_id=node, code=error.code, error=error.message)
        finally:
            self._under_way.pop(node, None)

    async def _push_pull(self, node: NodeId) -> None:
        machine, clock = self._machine, self._clock
        sent_to = wants_after = NOBODY
        for _ in range(self._pieces_max):
            request = machine.sync(sent_to, clock.now_s(), wants_after=wants_after)
            reply = await self._rpc.call(node, PUSH_PULL, request)
            self._perform(machine.merge_sync(reply, node, clock.now_s()))
            if not request.more and not reply.more:
                return
            sent_to = request.updates[-1].node if request.updates else sent_to
            wants_after = reply.updates[-1].node if reply.updates else wants_after

    async def _answer(self, caller: NodeId, request: Sync) -> Sync:
        now_s = self._clock.now_s()
        self._perform(self._machine.merge_sync(request, caller, now_s))
        return self._machine.exchange.answer(request, now_s)

    async def _agree(self, node: NodeId) -> None:
        """Compare settings, once for each life of a member: they change with a restart only."""
        view = self._machine.view(node)
        if view is None or self._compared.get(node) == view.boot:
            return
        try:
            reply = await self._rpc.call(node, SETTINGS, Settings(self._agreement.text))
        except FrysError as error:
            # The tables are exchanged all the same; the next exchange asks again.
            _LOG.debug("membership.settings_unknown", peer_id=node, code=error.code, error=error.message)
            return
        self._compare(node, reply.text)

    async def _answer_settings(self, caller: NodeId, request: Settings) -> Settings:
        await trio.lowlevel.checkpoint()
        self._compare(caller, request.text)
        return Settings(self._agreement.text)

    def _compare(self, node: NodeId, text: str) -> None:
        view = self._machine.view(node)
        if view is not None:
            while len(self._compared) >= self._machine.members_max:
                del self._compared[next(iter(self._compared))]
            self._compared[node] = view.boot
        found = self._agreement.take(node, text)
        if not found:
            return
        _LOG.warning(
            "membership.settings_differ",
            peer="" if view is None else view.name,
            peer_id=node,
            differences="; ".join(map(str, found)),
            hint="give all nodes the same [plugins.membership] settings and [cluster] profile",
        )
