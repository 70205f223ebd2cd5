"""How well protected the cluster is: what this node can say of itself, and what it asks the others.

Nothing here is secret: no keys, hashes or tokens, only epochs, counts and days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from frys_node.base.errors import FrysError
from frys_node.base.types import NodeId
from frys_node.channel.keys import SURVEY_TIMEOUT_S, KeyDesk, KeySurvey
from frys_node.channel.peers import Peers
from frys_node.channel.rekey import Rekeying
from frys_node.channel.renewal import Renewal
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure.identity import Identity
from frys_node.wire.codec import Message

CLASSICAL = "post-quantum confidentiality, classical authentication"
POST_QUANTUM = "post-quantum confidentiality and authentication"


class AskTrust(Message, frozen=True):
    """How well are you protected?"""


class Trust(Message, frozen=True):
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


class MemberTrust(msgspec.Struct, frozen=True, kw_only=True):
    """What one member says; nothing if it did not answer."""

    name: str
    id: NodeId
    certificate_left_s: float | None = None
    sessions: int = 0
    post_quantum: int = 0
    error: str = ""


TRUST: Method[AskTrust, Trust] = Method("channel.protection", AskTrust, Trust)


class TrustDesk:
    """Answers for this node, and asks the others."""

    def __init__(
        self,
        rpc: Rpc,
        identity: Identity,
        peers: Peers,
        keys: KeyDesk,
        rekeying: Rekeying,
        renewal: Renewal,
        *,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self._rpc = rpc
        self._identity = identity
        self._peers = peers
        self._keys = keys
        self._rekeying = rekeying
        self._renewal = renewal
        self._name_of = name_of
        rpc.serve(TRUST, self._answer)

    async def _answer(self, caller: NodeId, request: AskTrust) -> Trust:
        await trio.lowlevel.checkpoint()
        kept = self._peers.all()
        return Trust(self._renewal.left_s(), len(kept), sum(held.session.is_post_quantum for held in kept))

    def identity(self) -> dict[str, str]:
        """The algorithm of this node's key, and what that means in words."""
        key = self._identity.certificate.public_key()
        if isinstance(key, Ed25519PublicKey):
            return {"algorithm": "Ed25519", "means": CLASSICAL}
        return {"algorithm": "ML-DSA-65", "means": POST_QUANTUM}

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

    async def survey(self, members: Sequence[tuple[NodeId, str]]) -> tuple[list[MemberTrust], KeySurvey]:
        """Ask members, this node among them, at the same time; who does not answer is named."""
        found: list[MemberTrust] = []
        keys: list[KeySurvey] = []

        async def ask(node: NodeId, name: str) -> None:
            try:
                with trio.fail_after(SURVEY_TIMEOUT_S):
                    said = await self._rpc.call(node, TRUST, AskTrust())
            except trio.TooSlowError:
                found.append(MemberTrust(name=name, id=node, error=f"no answer within {SURVEY_TIMEOUT_S:g} s"))
            except FrysError as error:
                found.append(MemberTrust(name=name, id=node, error=error.message))
            else:
                told = (said.certificate_left_s, said.sessions, said.post_quantum)
                found.append(
                    MemberTrust(name=name, id=node, certificate_left_s=told[0], sessions=told[1], post_quantum=told[2])
                )

        async def ask_keys() -> None:
            keys.append(await self._keys.survey(members))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_keys)
            for node, name in members:
                nursery.start_soon(ask, node, name)
        return sorted(found, key=lambda said: (said.name, said.id)), keys[0]
