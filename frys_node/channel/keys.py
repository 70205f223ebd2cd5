"""The gossip keys of the cluster: the issuer makes one or expels a node, and everybody says what it holds.

A new key is only opened with at first; each node seals with it `KEY_SETTLE_S` after it has arrived there, when it has
long reached whoever is connected. A member that is cut off meanwhile gets it with its next connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import trio

from frys_node.base.errors import FrysError, NotReady, UsageError
from frys_node.base.ports import Clock, Entropy
from frys_node.base.types import NodeId
from frys_node.channel.credentials import MemberSecrets
from frys_node.channel.key_rotation import KEY_SETTLE_S, KeyKeeper
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure.keyring import KEY_BYTES
from frys_node.secure.statements import is_node_id
from frys_node.wire.codec import Message

SURVEY_TIMEOUT_S = 2.0
"""Longest wait for one member's answer."""

POLL_S = 0.1

log = logging.getLogger(__name__)


class AskKeys(Message, frozen=True):
    """Which epochs do you hold?"""


class HeldKeys(Message, frozen=True):
    """Epochs of the keys held, highest first, and of the one that this node seals with. Never the keys."""

    epochs: tuple[int, ...]
    primary: int
    expelled: int = 0
    """How many expelled nodes this node knows of, and refuses."""


class RotateKeys(Message, frozen=True):
    """Ask the issuer for a new key."""


class Expel(Message, frozen=True):
    """Ask the issuer to expel a node."""

    node: str


class NodeExpelled(Message, frozen=True):
    """It is expelled, durably, and the keys are rotated."""

    epoch: int
    expelled: int
    is_new: bool
    """False: it was expelled before."""


class MemberKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What one member holds, as it says; nothing if it did not answer."""

    name: str
    id: NodeId
    epochs: tuple[int, ...] = ()
    primary: int | None = None
    expelled: int = 0
    error: str = ""


class KeySurvey(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody's epochs, how many members seal with the newest one, and how many refuse all who were expelled."""

    epoch: int
    converged: int
    total: int
    expelled: int = 0
    refusing: int = 0
    members: list[MemberKeys]

    @property
    def is_done(self) -> bool:
        """True if everybody seals with the newest key and refuses whoever was expelled."""
        return self.converged == self.refusing == self.total


HELD_KEYS: Method[AskKeys, HeldKeys] = Method("channel.held_keys", AskKeys, HeldKeys)
ROTATE_KEYS: Method[RotateKeys, HeldKeys] = Method("channel.rotate_keys", RotateKeys, HeldKeys)
EXPEL: Method[Expel, NodeExpelled] = Method("channel.expel", Expel, NodeExpelled)


class KeyDesk:
    """Answers for this node's keyring, asks the others about theirs, and on the issuer changes it."""

    def __init__(
        self,
        rpc: Rpc,
        secrets: MemberSecrets,
        entropy: Entropy,
        clock: Clock,
        *,
        rotate_every_s: float,
        issuer: Callable[[], NodeId],
        may_rotate: Callable[[], bool],
    ) -> None:
        self._rpc = rpc
        self._secrets = secrets
        self._entropy = entropy
        self._clock = clock
        self._issuer = issuer
        self._may_rotate = may_rotate
        self.keeper = KeyKeeper(
            secrets, entropy, clock, rotate_every_s=rotate_every_s, may_rotate=may_rotate, ask=self._want_key
        )
        rpc.serve(HELD_KEYS, self._held)
        rpc.serve(ROTATE_KEYS, self._rotate)
        rpc.serve(EXPEL, self._expel)

    async def _want_key(self) -> None:
        await self._rpc.call(self._issuer(), ROTATE_KEYS, RotateKeys())

    def held(self) -> HeldKeys:
        """Return this node's epochs."""
        keyring = self._secrets.keyring
        primary = keyring.primary
        epochs = tuple(key.epoch for key in keyring.keys)
        return HeldKeys(epochs, 0 if primary is None else primary.epoch, len(self._secrets.revoked))

    async def _held(self, caller: NodeId, request: AskKeys) -> HeldKeys:
        return self.held()

    def _check_issuer(self) -> None:
        if not self._may_rotate():
            raise NotReady(
                "this node is not the issuer, or does not hold the key of the cluster's authority",
                hint="frys-node issuer show says who is; hand the role to a node that holds the key: issuer handover",
            )

    async def _rotate(self, caller: NodeId, request: RotateKeys) -> HeldKeys:
        self._check_issuer()
        if not self._secrets.keyring.is_settled:
            raise NotReady("the last key is still spreading", hint=f"retry in {KEY_SETTLE_S:g} s")
        self.keeper.rotate()
        return self.held()

    async def _expel(self, caller: NodeId, request: Expel) -> NodeExpelled:
        """Expel a node; whoever is a member may ask for it, as for a token that lets one in."""
        self._check_issuer()
        if not is_node_id(request.node):
            raise UsageError(f"'{request.node[:64]}' is no node id", hint="32 hex digits; frys-node members shows them")
        node = NodeId(request.node)
        if node == self._rpc.self_id:
            raise UsageError(
                "the issuer cannot be expelled: nobody could sign it",
                hint="hand its role over first: frys-node issuer handover NAME",
            )
        if node == caller:
            raise UsageError("a node cannot expel itself", hint="run it on another node, or let it leave")
        is_new = self.expel(node)
        if is_new:
            log.warning("channel.node_expelled", extra={"peer": node, "asked_by": caller})
        held = self.held()
        return NodeExpelled(max(held.epochs, default=0), held.expelled, is_new)

    def expel(self, node: NodeId) -> bool:
        """Expel a node and rotate the keys, on the issuer; raises as `MemberSecrets.expel`."""
        made_s = self._clock.unix_ns() // 1_000_000_000
        return self._secrets.expel(node, self._entropy.token_bytes(KEY_BYTES), made_s)

    async def survey(self, members: Sequence[tuple[NodeId, str]]) -> KeySurvey:
        """Ask members, this node among them, at the same time; who does not answer is named."""
        found: list[MemberKeys] = []

        async def ask(node: NodeId, name: str) -> None:
            try:
                with trio.fail_after(SURVEY_TIMEOUT_S):
                    held = await self._rpc.call(node, HELD_KEYS, AskKeys())
            except trio.TooSlowError:
                found.append(MemberKeys(name=name, id=node, error=f"no answer within {SURVEY_TIMEOUT_S:g} s"))
            except FrysError as error:
                found.append(MemberKeys(name=name, id=node, error=error.message))
            else:
                found.append(
                    MemberKeys(name=name, id=node, epochs=held.epochs, primary=held.primary, expelled=held.expelled)
                )

        async with trio.open_nursery() as nursery:
            for node, name in members:
                nursery.start_soon(ask, node, name)
        newest = max((held.epochs[0] for held in found if held.epochs), default=0)
        expelled = max((held.expelled for held in found), default=0)
        return KeySurvey(
            epoch=newest,
            converged=sum(held.primary == newest for held in found),
            total=len(found),
            expelled=expelled,
            refusing=sum(not held.error and held.expelled == expelled for held in found),
            members=sorted(found, key=lambda held: (held.name, held.id)),
        )

    async def converged(self, members: Callable[[], Sequence[tuple[NodeId, str]]]) -> KeySurvey:
        """Survey until everybody seals with the newest key; the caller's cancel scope bounds it."""
        while True:
            survey = await self.survey(members())
            if survey.is_done:
                return survey
            await trio.sleep(POLL_S)
