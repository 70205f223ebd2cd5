"""The gossip keys of the cluster: the issuer makes them, and everybody says what it holds.

A new key is only opened with at first; each node seals with it `KEY_SETTLE_S` after it has arrived there, when it has
long reached whoever is connected. A member that is cut off meanwhile gets it with its next connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf

import msgspec
import trio

from frys_node.base.errors import FrysError, NotReady
from frys_node.base.ports import Clock, Entropy
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure.keyring import KEY_BYTES
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.key_rotation import KEY_SETTLE_S, KeyKeeper
from frys_node.wire.codec import Message

SURVEY_TIMEOUT_S = 2.0
"""Longest wait for one member's answer."""

POLL_S = 0.1

ROTATE_EVERY_MIN_S = 10.0
"""Pause between two rotations that members ask for; the issuer's own operator is not bound by it."""

log = logging.getLogger(__name__)


class AskKeys(Message, frozen=True):
    """Which epochs do you hold?"""


class HeldKeys(Message, frozen=True):
    """Epochs of the keys held, highest first, and of the one that this node seals with. Never the keys."""

    epochs: tuple[int, ...]
    primary: int
    expelled: int = 0
    """How many expelled nodes this node knows of, and refuses."""
    digest: bytes = b""
    """Of all of them, see `MemberSecrets.digest`; empty of a version that does not say."""
    admin: int = 0
    """Number of the authority's word on the admin tokens; 0 if there is none."""


class RotateKeys(Message, frozen=True):
    """Ask the issuer for a new key."""


class MemberKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What one member holds, as it says; nothing if it did not answer."""

    name: str
    id: NodeId
    epochs: tuple[int, ...] = ()
    primary: int | None = None
    expelled: int = 0
    refuses: bool = False
    """It says that it refuses exactly who is expelled by the issuer's word."""
    admin: int = 0
    """Number of the authority's word on the admin tokens that it holds."""
    error: str = ""


class KeySurvey(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody's epochs, how many members seal with the issuer's newest one, and how many refuse whom it expelled."""

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
        self._rotated_s = -inf

    async def _want_key(self) -> None:
        await self._rpc.call(self._issuer(), ROTATE_KEYS, RotateKeys())

    def held(self) -> HeldKeys:
        """Return this node's epochs."""
        keyring = self._secrets.keyring
        primary = keyring.primary
        epochs = tuple(key.epoch for key in keyring.keys)
        seals_with = 0 if primary is None else primary.epoch
        word = self._secrets.admin.word
        admin = 0 if word is None else word.number
        return HeldKeys(epochs, seals_with, len(self._secrets.revoked), self._secrets.digest(), admin)

    async def _held(self, caller: NodeId, request: AskKeys) -> HeldKeys:
        return self.held()

    def check_issuer(self) -> None:
        """Raise a `NotReady` unless this node can make keys and expel nodes."""
        if not self._may_rotate():
            raise NotReady(
                "this node is not the issuer, or does not hold the key of the cluster's authority",
                hint="frys-node issuer show says who is; hand the role to a node that holds the key: issuer handover",
            )

    async def _rotate(self, caller: NodeId, request: RotateKeys) -> HeldKeys:
        self.check_issuer()
        if not self._secrets.keyring.is_settled:
            raise NotReady("the last key is still spreading", hint=f"retry in {KEY_SETTLE_S:g} s")
        left_s = self._rotated_s + ROTATE_EVERY_MIN_S - trio.current_time()
        if caller != self._rpc.self_id and left_s > 0:
            raise NotReady("the keys were just rotated", hint=f"retry in {left_s:.0f} s, or run it on the issuer")
        self.keeper.rotate()
        self._rotated_s = trio.current_time()
        return self.held()

    def rotate_older(self, than_unix_s: float) -> None:
        """Make a key if the newest one is older, on the issuer; raises as `MemberSecrets.rotate`."""
        newest = self._secrets.keyring.newest
        if newest is not None and newest.made_unix_s < than_unix_s:
            self.keeper.rotate()

    def is_expelled(self, node: NodeId) -> bool:
        """True if this node refuses another as expelled."""
        return node in self._secrets.revoked

    def expel(self, node: NodeId) -> bool:
        """Expel a node and rotate the keys, on the issuer; raises as `MemberSecrets.expel`."""
        made_s = self._clock.unix_ns() // 1_000_000_000
        return self._secrets.expel(node, self._entropy.token_bytes(KEY_BYTES), made_s)

    async def survey(self, members: Sequence[tuple[NodeId, str]], wanted: HeldKeys | None = None) -> KeySurvey:
        """Ask members, this node among them, at the same time; who does not answer is named.

        What they should hold is what the issuer holds; if it is not among them, `wanted` or what this node holds: no
        member can move the goal by what it says of itself.
        """
        answers: list[tuple[NodeId, str, HeldKeys | str]] = []

        async def ask(node: NodeId, name: str) -> None:
            try:
                with trio.fail_after(SURVEY_TIMEOUT_S):
                    held = await self._rpc.call(node, HELD_KEYS, AskKeys())
            except trio.TooSlowError:
                answers.append((node, name, f"no answer within {SURVEY_TIMEOUT_S:g} s"))
            except FrysError as error:
                answers.append((node, name, error.message))
            else:
                answers.append((node, name, held))

        async with trio.open_nursery() as nursery:
            for node, name in members:
                nursery.start_soon(ask, node, name)
        said = [held for node, _, held in answers if node == self._issuer() and isinstance(held, HeldKeys)]
        return _survey_of(answers, said[0] if said else wanted or self.held())

    async def converged(
        self, members: Callable[[], Sequence[tuple[NodeId, str]]], wanted: HeldKeys | None = None
    ) -> KeySurvey:
        """Survey until everybody seals with the newest key; the caller's cancel scope bounds it."""
        while True:
            survey = await self.survey(members(), wanted)
            if survey.is_done:
                return survey
            await trio.sleep(POLL_S)


def _survey_of(answers: Sequence[tuple[NodeId, str, HeldKeys | str]], wanted: HeldKeys) -> KeySurvey:
    found: list[MemberKeys] = []
    for node, name, held in answers:
        if isinstance(held, str):
            found.append(MemberKeys(name=name, id=node, error=held))
            continue
        refuses = held.digest == wanted.digest if held.digest else held.expelled == wanted.expelled
        found.append(
            MemberKeys(
                name=name,
                id=node,
                epochs=held.epochs,
                primary=held.primary,
                expelled=held.expelled,
                refuses=refuses,
                admin=held.admin,
            )
        )
    newest = max(wanted.epochs, default=0)
    return KeySurvey(
        epoch=newest,
        converged=sum(held.primary == newest for held in found),
        total=len(found),
        expelled=wanted.expelled,
        refusing=sum(held.refuses for held in found),
        members=sorted(found, key=lambda held: (held.name, held.id)),
    )
