"""What only the fakes can do: crash, fail, lose, delay and cut."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from frys_node.base.errors import StorageError
from frys_node.base.types import Address
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import Failure, FakeDisk, Tear
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.network import FakeNetwork, LinkProfile
from frys_node.transport.errors import ConnectFailed, FilePoisoned, StorageFull, StorageReadOnly


def test_a_crash_takes_what_was_not_synced() -> None:
    """Synced bytes, atomic writes and nothing else survive."""
    disk = FakeDisk()
    disk.append("log", b"synced")
    disk.sync("log")
    disk.append("log", b"not")
    disk.append("never", b"x")
    disk.write("whole", b"w")
    disk.write("hasty", b"h", durable=False)
    assert disk.unsynced_bytes("log") == 3
    assert disk.crash() == 5
    assert disk.read("log") == b"synced"
    assert disk.read("never") is None
    assert disk.read("whole") == b"w"
    assert disk.read("hasty") is None


def test_a_crash_can_tear_at_an_exact_byte() -> None:
    """Every torn tail can be enumerated."""
    for kept in range(5):
        disk = FakeDisk()
        disk.append("log", b"ab")
        disk.sync("log")
        disk.append("log", b"cdef")
        disk.crash(keep_bytes={"log": kept})
        assert disk.read("log") == b"abcdef"[: 2 + kept]
        assert disk.unsynced_bytes("log") == 0


def test_torn_sector_and_kept_crashes_never_touch_synced_bytes() -> None:
    """Whatever the disk reorders, an fsynced prefix stands."""
    rng = random.Random(5)
    results = set()
    for _ in range(200):
        for tear in Tear:
            disk = FakeDisk()
            disk.append("log", b"s" * 100)
            disk.sync("log")
            disk.append("log", b"u" * 300)
            disk.crash(tear, rng)
            data = disk.read("log")
            assert data is not None
            assert data[:100] == b"s" * 100
            results.add((tear, bytes(data[100:])))
            if tear is Tear.KEPT:
                assert data[100:] == b"u" * 300
    assert any(tear is Tear.SECTORS and 0 in tail and b"u" in tail for tear, tail in results)
    assert len({tail for tear, tail in results if tear is Tear.TORN}) > 50


def test_planned_failures_leave_the_file_as_it_was() -> None:
    """The nth call fails once; the one after it works."""
    disk = FakeDisk()
    disk.append("log", b"a")
    disk.fail_next(Failure.FULL)
    with pytest.raises(StorageFull):
        disk.append("log", b"b")
    disk.fail_next(Failure.IO)
    with pytest.raises(StorageError):
        disk.write("log", b"c")
    assert disk.read("log") == b"a"
    disk.append("log", b"d")
    assert disk.read("log") == b"ad"


def test_a_failed_sync_poisons_the_file_until_a_restart_or_a_rewrite() -> None:
    """A second fsync would lie."""
    disk = FakeDisk()
    disk.append("log", b"a")
    disk.fail_next()
    with pytest.raises(StorageError):
        disk.sync("log")
    for call in (lambda: disk.sync("log"), lambda: disk.append("log", b"b")):
        with pytest.raises(FilePoisoned):
            call()
    disk.crash()
    assert disk.read("log") is None
    disk.append("log", b"again")


def test_a_full_and_a_read_only_disk_say_so() -> None:
    """Capacity counts what is stored, and freeing space helps."""
    disk = FakeDisk(capacity_bytes=10)
    disk.write("a", b"12345678")
    with pytest.raises(StorageFull):
        disk.append("b", b"123")
    disk.write("a", b"1")
    disk.append("b", b"123")
    disk.read_only = True
    with pytest.raises(StorageReadOnly):
        disk.write("a", b"2")
    assert disk.read("a") == b"1"


def test_entropy_repeats_from_its_seed() -> None:
    """Same seed, same bytes; another seed, other bytes."""
    assert FakeEntropy(3).token_bytes(8) == FakeEntropy(3).token_bytes(8)
    assert FakeEntropy(3).rng("x").random() == FakeEntropy(3).rng("x").random()
    assert FakeEntropy(3).token_bytes(8) != FakeEntropy(4).token_bytes(8)


async def test_a_stepped_wall_clock_leaves_monotonic_time_alone(autojump_clock: trio.testing.MockClock) -> None:
    """Protocols that use now_s are immune to steps."""
    clock = FakeClock(drift=0.5)
    before_s, before_ns = clock.now_s(), clock.unix_ns()
    clock.step(-100)
    await trio.sleep(10)
    assert clock.now_s() == before_s + 10
    assert clock.unix_ns() == before_ns - 100 * 10**9 + 15 * 10**9


async def test_delay_passes_in_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    """A slow link costs virtual seconds only."""
    network = FakeNetwork(profile=LinkProfile(delay_s=2.0))
    one = await network.host("a").bind(Address("a", 1))
    two = await network.host("b").bind(Address("b", 1))
    started_s = trio.current_time()
    one.send(b"x", Address("b", 1))
    assert await two.receive() == [(b"x", Address("a", 1))]
    assert trio.current_time() == started_s + 2.0


async def test_loss_duplicates_and_reorder_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    """1,000 packets meet every fault, and the counts add up."""
    network = FakeNetwork(7, LinkProfile(jitter_s=0.1, loss=0.1, duplicate=0.1))
    one = await network.host("a").bind(Address("a", 1))
    two = await network.host("b").bind(Address("b", 1))
    for number in range(1_000):
        one.send(number.to_bytes(2, "big"), Address("b", 1))
    received: list[int] = []
    with trio.move_on_after(5):
        while True:
            received += [int.from_bytes(payload, "big") for payload, _ in await two.receive()]
    assert received != sorted(received)
    assert len(received) == 1_000 - network.counts["lost"] + network.counts["duplicated"]
    assert 50 < network.counts["lost"] < 150
    assert 50 < network.counts["duplicated"] < 150


async def test_a_one_way_partition_cuts_one_direction(autojump_clock: trio.testing.MockClock) -> None:
    """The other direction stays, and heal joins both."""
    network = FakeNetwork()
    one = await network.host("a").bind(Address("a", 1))
    two = await network.host("b").bind(Address("b", 1))
    network.partition(["a"], ["b"], one_way=True)
    one.send(b"lost", Address("b", 1))
    two.send(b"back", Address("a", 1))
    assert (await one.receive())[0][0] == b"back"
    network.heal()
    one.send(b"through", Address("b", 1))
    assert (await two.receive())[0][0] == b"through"
    assert network.counts["cut"] == 1


async def test_a_stream_waits_out_a_partition_and_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """As TCP does: the bytes arrive after the cut."""
    network = FakeNetwork()
    listener = await network.host("b").listen(Address("b", 1))
    near = await network.host("a").connect(Address("b", 1))
    far, _ = await listener.accept()
    network.partition(["a"], ["b"])
    await near.send_all(b"patience")
    with trio.move_on_after(60) as waited:
        await far.receive_some()
    assert waited.cancelled_caught
    network.heal()
    assert await far.receive_some() == b"patience"


async def test_a_connect_across_a_partition_times_out(autojump_clock: trio.testing.MockClock) -> None:
    """Silence is a timeout, not a refusal."""
    network = FakeNetwork()
    await network.host("b").listen(Address("b", 1))
    network.partition(["a"], ["b"])
    with pytest.raises(ConnectFailed) as caught:
        await network.host("a").connect(Address("b", 1))
    assert caught.value.reason == "timeout"


async def test_a_killed_host_resets_its_streams_and_refuses(autojump_clock: trio.testing.MockClock) -> None:
    """What kill -9 looks like from outside."""
    network = FakeNetwork()
    listener = await network.host("b").listen(Address("b", 1))
    near = await network.host("a").connect(Address("b", 1))
    await listener.accept()
    network.kill("b")
    with pytest.raises(trio.BrokenResourceError):
        await near.receive_some()
    with pytest.raises(ConnectFailed) as caught:
        await network.host("a").connect(Address("b", 1))
    assert caught.value.reason == "refused"
