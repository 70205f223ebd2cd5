"""When gossip keys rotate: by age, across restarts, after long absences, with clocks that jump."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from frys_node.base.errors import StorageError
from frys_node.base.types import NodeId
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.keyring import EpochKey
from frys_node.secure.statements import Statements
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.key_rotation import ASK_EVERY_S, KEY_RETIRE_S, KEY_SETTLE_S, LOOK_S, KeyKeeper
from frys_node.trust.rotation_plan import JITTER, RotationPlan

DAY_S = 86_400.0
EXPELLED = NodeId("0e" * 16)


def test_a_key_lives_for_a_day_give_or_take_a_tenth() -> None:
    """Everybody computes the same instant, and clusters do not rotate together."""
    plan, lives = RotationPlan(DAY_S), set()
    for epoch in range(1, 200):
        key = EpochKey(epoch, b"k" * 32, made_unix_s=1_000_000 * epoch)
        assert plan.life_s(key) == RotationPlan(DAY_S).life_s(key)
        assert (1 - JITTER) * DAY_S <= plan.life_s(key) <= (1 + JITTER) * DAY_S
        lives.add(round(plan.life_s(key)))
    assert len(lives) > 150


def test_the_wall_clock_counts_across_restarts_and_its_jumps_do_no_harm() -> None:
    """A fresh process asks how old the key is; a clock that is behind or was ahead makes it count its own time."""
    key = EpochKey(1, b"k" * 32, made_unix_s=1_000_000)
    life_s = RotationPlan(DAY_S).life_s(key)
    assert math.isclose(RotationPlan(DAY_S).due_in_s(key, 1_000_000 + 600, 5.0), life_s - 600)
    assert RotationPlan(DAY_S).due_in_s(key, 1_000_000 + 10 * DAY_S, 5.0) < 0
    behind = RotationPlan(DAY_S)
    assert math.isclose(behind.due_in_s(key, 10.0, 5.0), life_s)
    assert math.isclose(behind.due_in_s(key, 10.0, 605.0), life_s - 600)
    unknown = RotationPlan(DAY_S)
    assert unknown.due_in_s(EpochKey(1, b"o" * 32), 1e9, 0.0) > 0
    assert RotationPlan(0.0).due_in_s(key, 1e12, 1e12) == math.inf


class Sealer:
    """A sealer whose counter can be said to be worn."""

    is_worn = False
    is_exhausted = False


class Issuer:
    """An issuer's keeper on a disk that outlives it."""

    def __init__(self, every_s: float = DAY_S) -> None:
        self.disk, self.clock, self.every_s = FakeDisk(), FakeClock(), every_s
        self.identity = create_cluster(self.disk, FakeEntropy("i"), self.clock, cluster_name="test", node_name="a")
        self.asked = 0
        self.sealer = Sealer()

    def open(self) -> KeyKeeper:
        """Start, or start again."""
        self.secrets = MemberSecrets(self.disk)
        self.secrets.statements = Statements(self.identity)
        keeper = KeyKeeper(
            self.secrets,
            FakeEntropy(f"e{self.clock.unix_ns()}"),
            self.clock,
            rotate_every_s=self.every_s,
            may_rotate=lambda: True,
            ask=self._ask,
        )
        keeper.sealer = self.sealer
        self.secrets.on_change = keeper.changed
        return keeper

    async def _ask(self) -> None:
        self.asked += 1

    async def live(self, seconds: float) -> None:
        """Run for so long."""
        with trio.move_on_after(seconds):
            await self.open().run()

    @property
    def epochs(self) -> list[int]:
        return [key.epoch for key in self.secrets.keyring.keys]


async def test_the_issuer_rotates_once_a_day_and_three_epochs_are_kept(autojump_clock: MockClock) -> None:
    """Four days make about four rotations, and what is over three is gone from the disk too."""
    issuer = Issuer()
    await issuer.live(4.2 * DAY_S)
    newest = issuer.epochs[0]
    assert 3 <= newest - 1 <= 4
    assert issuer.epochs == [newest, newest - 1, newest - 2]
    assert MemberSecrets(issuer.disk).keyring.keys == issuer.secrets.keyring.keys
    assert all(issuer.secrets.statements.is_ours(key) for key in issuer.secrets.keyring.keys)  # type: ignore[union-attr]


async def test_restarts_rotate_nothing_that_is_not_due_and_a_long_absence_once(autojump_clock: MockClock) -> None:
    """A crash loop makes no storm of keys; a week that the issuer was off makes one rotation, not seven."""
    issuer = Issuer()
    for _ in range(20):
        await issuer.live(60.0)
    assert issuer.epochs == [1]
    await trio.sleep(7 * DAY_S)
    await issuer.live(600.0)
    assert issuer.epochs == [2, 1]


async def test_a_rotation_by_age_can_be_switched_off(autojump_clock: MockClock) -> None:
    """With 0 only commands and expulsions make a key."""
    issuer = Issuer(every_s=0.0)
    await issuer.live(2 * DAY_S)
    assert issuer.epochs == [1]


async def test_an_expulsion_rotates_at_once_and_retires_what_was_there_before(autojump_clock: MockClock) -> None:
    """Also one that this issuer only heard of, or whose key was lost in a crash: the next look makes it."""
    issuer = Issuer()
    keeper = issuer.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(100.0)
        issuer.secrets.revoke(issuer.identity.node_id)
        await trio.sleep(KEY_SETTLE_S / 2)
        assert issuer.epochs == [2, 1]
        assert issuer.secrets.keyring.primary == issuer.secrets.keyring.keys[1]
        await trio.sleep(KEY_SETTLE_S)
        assert issuer.secrets.keyring.primary == issuer.secrets.keyring.keys[0]
        await trio.sleep(KEY_RETIRE_S)
        assert issuer.epochs == [2]
        nursery.cancel_scope.cancel()
    assert [key.epoch for key in MemberSecrets(issuer.disk).keyring.keys] == [2]


async def test_a_rotation_for_an_expulsion_that_failed_is_tried_again_within_seconds(
    autojump_clock: MockClock,
) -> None:
    """The disk refuses the new key at first; until it is made whoever was expelled reads on."""
    issuer = Issuer()
    keeper = issuer.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(100.0)
        rotate, tried = keeper.rotate, 0

        def refuse() -> None:
            nonlocal tried
            tried += 1
            if tried < 3:
                raise StorageError("the disk is full")
            rotate()

        keeper.rotate = refuse  # type: ignore[method-assign]
        issuer.secrets.revoke(issuer.identity.node_id)
        await trio.sleep(3 * KEY_SETTLE_S)
        assert issuer.epochs[0] == 2
        nursery.cancel_scope.cancel()


async def test_a_full_disk_holds_no_promotion_up_and_is_made_good(autojump_clock: MockClock) -> None:
    """A member that cannot write seals with the new key all the same; once it can, the expulsion is on its disk."""
    issuer = Issuer()
    keeper = issuer.open()
    write = issuer.disk.write

    def refuse(path: str, data: bytes, *, durable: bool = True) -> None:
        raise StorageError("the disk is full")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(100.0)
        issuer.secrets.rotate(b"n" * 32)
        issuer.disk.write = refuse  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            issuer.secrets.expel(EXPELLED, b"k" * 32, 1)
        await trio.sleep(2 * KEY_SETTLE_S)
        assert issuer.secrets.keyring.is_settled
        assert not MemberSecrets(issuer.disk).revoked
        issuer.disk.write = write  # type: ignore[method-assign]
        await trio.sleep(2 * LOOK_S)
        nursery.cancel_scope.cancel()
    stored = MemberSecrets(issuer.disk)
    assert list(stored.revoked) == [EXPELLED]
    assert [key.expelled for key in stored.keyring.keys] == [1]


async def test_a_worn_counter_asks_for_a_key_and_not_all_the_time(autojump_clock: MockClock) -> None:
    """A node whose packets are nearly counted out does not go mute: it asks, again and again until it has a key."""
    issuer = Issuer(every_s=0.0)
    issuer.sealer.is_worn = True
    await issuer.live(5 * ASK_EVERY_S - 1)
    assert 4 <= issuer.asked <= 5
    issuer.sealer.is_worn = False
    await issuer.live(5 * ASK_EVERY_S)
    assert issuer.asked <= 5
