"""Keyrings of several members under rotation, expulsion, loss, reordering, restarts and a member that lies.

The real `MemberSecrets` over the real codec, each with a disk of its own; the network is a bag of messages that are
delivered in any order, twice, or never. What is judged: what a member seals with never becomes lower, what an expelled
member may know is sealed with by nobody who has heard the newer key, retired keys open nothing, and members that can
talk end with the same keys.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from verify_handshake import CLOCK, ENTROPY, member_of

from frys_node.base.types import BootId, NodeId
from frys_node.channel.bootstrap import create_cluster
from frys_node.channel.messages import CHANNEL_CODEC
from frys_node.secure.identity import Identity
from frys_node.secure.keyring import EpochKey, Keyring
from frys_node.secure.packet import PacketSealer
from frys_node.testing.disk import FakeDisk
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.messages import Credentials

statements = pytest.importorskip("frys_node.secure.statements", reason="keys and expulsions are not signed here yet")

MEMBERS = ("b", "c", "d")
MESSAGES_MAX = 60
SETTLING_ROUNDS = 4


class Member:
    """One honest member."""

    def __init__(self, identity: Identity, disk: FakeDisk) -> None:
        self.identity = identity
        self.id = identity.node_id
        self.disk = disk
        self.boot = 0
        self.secrets: Any = None
        self.sealer: Any = None
        self.rank = (0, 0)
        """Of what it sealed with last."""
        self.retired: set[bytes] = set()
        """Keys that it has deleted for good."""
        self.start()

    def start(self) -> None:
        """Come up from the disk."""
        self.boot += 1
        self.secrets = MemberSecrets(self.disk)
        self.secrets.statements = statements.Statements(self.identity)
        self.sealer = PacketSealer(self.secrets.keyring, self.id, BootId(self.boot))

    def sealed(self) -> bytes:
        """Seal a packet."""
        packet: bytes = self.sealer.seal(b"packet")
        return packet


def opens(key: EpochKey, packet: bytes) -> bool:
    """True if a key that somebody has opens a packet, whoever and whenever they are."""
    return PacketSealer(Keyring((key,)), NodeId("f" * 32), BootId(1)).open(packet, 0.0) is not None


class Keys(RuleBasedStateMachine):
    """A cluster of an issuer, three members and a member x that is the attacker."""

    @initialize()
    def begin(self) -> None:
        """Everybody has joined; x keeps all that it is told."""
        disk = FakeDisk()
        issuer = create_cluster(disk, ENTROPY, CLOCK, cluster_name="verify", node_name="a")
        self.issuer = Member(issuer, disk)
        self.members = [self.issuer, *(Member(member_of(issuer, name), FakeDisk()) for name in MEMBERS)]
        self.x = member_of(issuer, "x")
        self.known: set[EpochKey] = set()
        self.heard: list[Credentials] = []
        self.bag: list[tuple[int, bytes, bool]] = []
        self.is_expelled = False
        self.late: set[bytes] = set()
        """Keys that were made by somebody who knew of the expulsion."""
        # A standby of the issuer, who may be promoted while it is cut off.
        self.members[1].identity.ca_key = issuer.ca_key
        for member in self.members[1:]:
            member.secrets.take(self.issuer.secrets.offer(), from_issuer=True)
            member.secrets.keyring.promote()
        self._x_hears(self.issuer)

    # The issuer.

    @rule(which=st.sampled_from((0, 1)), times=st.integers(1, 3))
    def rotate(self, which: int, times: int) -> None:
        """The issuer makes keys, or one that follows it and may not know what it knew."""
        secrets = self.members[which].secrets
        for _ in range(times):
            if secrets.keyring.is_settled:
                secrets.rotate(ENTROPY.token_bytes(32), CLOCK.unix_ns() // 10**9)
                self._note_late(secrets)
            if times > 1:
                secrets.keyring.promote()

    def _note_late(self, secrets: Any) -> None:
        if self.x.node_id in secrets.revoked:
            self.late.add(max(secrets.keyring.keys, key=lambda key: key.epoch).key)

    @precondition(lambda self: not self.is_expelled)
    @rule()
    def expel(self) -> None:
        """The issuer expels x, which makes a key at once."""
        assert self.issuer.secrets.expel(self.x.node_id, ENTROPY.token_bytes(32), CLOCK.unix_ns() // 10**9)
        self.is_expelled = True
        self._note_late(self.issuer.secrets)

    # Members.

    @rule(first=st.integers(0, 3), second=st.integers(0, 3))
    def talk(self, first: int, second: int) -> None:
        """Two tell each other at once what they hold."""
        one, other = self.members[first], self.members[second]
        if first != second:
            said, answered = one.secrets.offer(), other.secrets.offer()
            other.secrets.take(said, from_issuer=one is self.issuer)
            one.secrets.take(answered, from_issuer=other is self.issuer)

    @rule(order=st.permutations(range(4)), length=st.integers(2, 4))
    def spread(self, order: list[int], length: int) -> None:
        """What the first holds goes from one to the next."""
        for sender, receiver in itertools.pairwise(order[:length]):
            told = self.members[sender].secrets.offer()
            self.members[receiver].secrets.take(told, from_issuer=sender == 0)

    @rule(sender=st.integers(0, 3), receiver=st.integers(0, 3))
    def tell(self, sender: int, receiver: int) -> None:
        """One tells another what it holds; it may take its time."""
        if sender != receiver and len(self.bag) < MESSAGES_MAX:
            told = CHANNEL_CODEC.encode(self.members[sender].secrets.offer())
            self.bag.append((receiver, told, sender == 0))

    @precondition(lambda self: self.bag)
    @rule(data=st.data(), keeps=st.booleans())
    def deliver(self, data: st.DataObject, keeps: bool) -> None:
        """Any message arrives, and perhaps again later."""
        number = data.draw(st.integers(0, len(self.bag) - 1))
        receiver, told, from_issuer = self.bag[number]
        if not keeps:
            del self.bag[number]
        message = CHANNEL_CODEC.decode(told)
        assert isinstance(message, Credentials)
        self.members[receiver].secrets.take(message, from_issuer=from_issuer)

    @precondition(lambda self: self.bag)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A message is lost."""
        del self.bag[data.draw(st.integers(0, len(self.bag) - 1))]

    @rule(which=st.integers(0, 3))
    def promote(self, which: int) -> None:
        """The newest key had its time to spread."""
        self.members[which].secrets.keyring.promote()

    @rule(which=st.integers(0, 3))
    def retire(self, which: int) -> None:
        """A member deletes what an expelled one may know."""
        member = self.members[which]
        before = set(member.secrets.keyring.keys)
        if member.secrets.retire():
            member.retired |= {key.key for key in before - set(member.secrets.keyring.keys)}

    @rule(which=st.integers(0, 3))
    def restart(self, which: int) -> None:
        """A member comes up again from its disk."""
        self.members[which].start()

    # The attacker.

    def _x_hears(self, member: Member) -> None:
        if self.x.node_id not in member.secrets.revoked:
            told = member.secrets.offer()
            self.heard.append(told)
            self.known |= set(told.keys)

    @rule()
    def x_hears(self) -> None:
        """Members that do not know better tell x what they hold."""
        for member in self.members:
            self._x_hears(member)

    @rule(which=st.integers(0, 3), number=st.integers(0, 50), strips=st.booleans())
    def x_repeats(self, which: int, number: int, strips: bool) -> None:
        """X tells a member what it heard once, with or without who is expelled."""
        member = self.members[which]
        if self.x.node_id not in member.secrets.revoked:
            told = self.heard[number % len(self.heard)]
            member.secrets.take(Credentials(told.keys) if strips else told, from_issuer=False)

    @rule(which=st.integers(0, 3), epoch=st.integers(1, 1 << 32), expelled=st.sampled_from((0, 1, 2, 1 << 30)))
    def x_plants(self, which: int, epoch: int, expelled: int) -> None:
        """X makes up a key, unsigned or with the signature of another, and an expulsion of somebody else."""
        member = self.members[which]
        if self.x.node_id in member.secrets.revoked:
            return
        mine = EpochKey(epoch, b"x" * 32, 0, expelled)
        borrowed = EpochKey(epoch, b"x" * 32, 0, expelled, self.heard[0].keys[0].signature)
        forged = statements.Expulsion((self.members[1].id,), self.heard[0].keys[0].signature)
        self.known |= {mine, borrowed}
        member.secrets.take(Credentials((mine, borrowed), (), (self.members[1].id,), (forged,)), from_issuer=False)

    # What must hold.

    @invariant()
    def nobody_seals_for_the_expelled(self) -> None:
        """X has no key that was made after its expulsion, and none of its own is held by anybody."""
        assert not self.late & {key.key for key in self.known}
        for member in self.members:
            held = member.secrets.keyring.keys
            assert all(key.key != b"x" * 32 for key in held)
            if self.x.node_id in member.secrets.revoked:
                assert member.secrets.keyring.newest.key not in {key.key for key in self.known}
            primary = member.secrets.keyring.primary
            if primary is not None and primary.key in self.late:
                packet = member.sealed()
                assert not any(opens(key, packet) for key in self.known if key.epoch < 1 << 32 and key.epoch)

    @invariant()
    def nobody_goes_back(self) -> None:
        """What is sealed with never becomes lower, restarts included."""
        for member in self.members:
            primary = member.secrets.keyring.primary
            assert primary is not None
            assert primary.rank >= member.rank
            member.rank = primary.rank

    @invariant()
    def what_is_retired_stays_away(self) -> None:
        """A deleted key does not come back, whoever tells it, and is not on the disk."""
        for member in self.members:
            assert not member.retired & {key.key for key in member.secrets.keyring.keys}
            stored = MemberSecrets(member.disk).keyring.keys
            assert not member.retired & {key.key for key in stored}

    @invariant()
    def only_x_is_expelled(self) -> None:
        """Nobody is expelled by anybody but the issuer."""
        for member in self.members:
            assert set(member.secrets.revoked) <= ({self.x.node_id} if self.is_expelled else set())

    def teardown(self) -> None:
        """Members that can talk end with the same keys, and open one another's packets."""
        for _ in range(SETTLING_ROUNDS):
            for sender in self.members:
                for receiver in self.members:
                    if sender is not receiver:
                        receiver.secrets.take(sender.secrets.offer(), from_issuer=sender is self.issuer)
        for member in self.members:
            member.secrets.keyring.promote()
            member.secrets.retire()
        (keys,) = {member.secrets.keyring.keys for member in self.members}
        assert not self.is_expelled or keys[0].expelled == 1
        packets = [member.sealed() for member in self.members]
        for member in self.members:
            for sender, packet in zip(self.members, packets, strict=True):
                assert sender is member or member.sealer.open(packet, 1e9) is not None


Keys.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestKeys = Keys.TestCase
