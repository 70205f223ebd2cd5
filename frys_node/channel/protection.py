"""How well protected the cluster is: what this node can say of itself, and what it asks the others.

Nothing here is secret: no keys, hashes or tokens, only epochs, counts and days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from frys_node.channel.peers import Peers
from frys_node.channel.rekey import Rekeying
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure import certificates
from frys_node.secure.identity import Identity
from frys_node.secure.posture import Posture, posture
from frys_node.trust.keys import SURVEY_TIMEOUT_S, KeyDesk, KeySurvey
from frys_node.wire.codec import Message


class AskProtection(Message, frozen=True):
    """How well are you protected?"""


class Protection(Message, frozen=True):
    """What a member says of itself."""

    certificate_left_s: float
    sessions: int
    post_quantum: int
    """Sessions whose key exchange has a post-quantum part."""


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """One connection between nodes."""

    peer: str
    id: NodeId
    group: str
    cipher: str
    version: str
    direction: str
    age_s: float
    bytes: int
    rekey_in_s: float | None
    """Until it is replaced for its age; None where the other side sees to that."""


class MemberProtection(msgspec.Struct, frozen=True, kw_only=True):
    """What one member says; nothing if it did not answer."""

    name: str
    id: NodeId
    certificate_left_s: float | None = None
    sessions: int = 0
    post_quantum: int = 0
    error: str = ""


PROTECTION: Method[AskProtection, Protection] = Method("channel.protection", AskProtection, Protection)


class ProtectionDesk:
    """Answers for this node, and asks the others."""

    def __init__(
        self,
        rpc: Rpc,
        identity: Identity,
        clock: Clock,
        peers: Peers,
        keys: KeyDesk,
        rekeying: Rekeying,
        *,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self._rpc = rpc
        self._identity = identity
        self._clock = clock
        self._peers = peers
        self._keys = keys
        self._rekeying = rekeying
        self._name_of = name_of
        rpc.serve(PROTECTION, self._answer)

    async def _answer(self, caller: NodeId, request: AskProtection) -> Protection:
        await trio.lowlevel.checkpoint()
        kept = self._peers.all()
        return Protection(self._left_s(), len(kept), sum(held.session.is_post_quantum for held in kept))

    def _left_s(self) -> float:
        return certificates.left_s(self._identity.certificate, self._clock.unix_ns())

    def posture(self) -> Posture:
        """What this node's cryptography protects, and how long its certificate lasts."""
        identity = self._identity
        return posture(identity.certificate, identity.ca_certificate, self._clock.unix_ns())

    def sessions(self) -> list[SessionView]:
        """This node's connections, by name."""
        now_s = trio.current_time()
        views = [
            SessionView(
                peer=self._name_of(held.node),
                id=held.node,
                group=held.session.group,
                cipher=held.session.cipher,
                version=held.session.version,
                direction="dialled" if held.dialled else "accepted",
                age_s=round(now_s - held.since_s, 1),
                bytes=held.bytes_moved,
                rekey_in_s=self._rekeying.due_in_s(held),
            )
            for held in self._peers.all()
        ]
        return sorted(views, key=lambda view: (view.peer, view.id))

    async def survey(self, members: Sequence[tuple[NodeId, str]]) -> tuple[list[MemberProtection], KeySurvey]:
        """Ask members, this node among them, at the same time; who does not answer is named."""
        found: list[MemberProtection] = []
        keys: list[KeySurvey] = []

        async def ask(node: NodeId, name: str) -> None:
            try:
                with trio.fail_after(SURVEY_TIMEOUT_S):
                    said = await self._rpc.call(node, PROTECTION, AskProtection())
            except trio.TooSlowError:
                found.append(MemberProtection(name=name, id=node, error=f"no answer within {SURVEY_TIMEOUT_S:g} s"))
            except FrysError as error:
                found.append(MemberProtection(name=name, id=node, error=error.message))
            else:
                told = (said.certificate_left_s, said.sessions, said.post_quantum)
                found.append(
                    MemberProtection(
                        name=name, id=node, certificate_left_s=told[0], sessions=told[1], post_quantum=told[2]
                    )
                )

        async def ask_keys() -> None:
            keys.append(await self._keys.survey(members))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_keys)
            for node, name in members:
                nursery.start_soon(ask, node, name)
        return sorted(found, key=lambda said: (said.name, said.id)), keys[0]
