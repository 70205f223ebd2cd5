"""Packets that no member sealed get no answer, whatever they look like: on real sockets."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from frys_node.base.ports import Datagram
from frys_node.base.types import Address, BootId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.members import Status
from frys_node.secure.keyring import EpochKey, Keyring
from frys_node.secure.packet import HEADER_BYTES, PACKET_BYTES_MAX, PacketSealer
from frys_node.secure.voices import NodeVoices
from frys_node.transport.executor import ThreadExecutor
from membership.config import for_profile
from membership.driver import MembershipDriver, Ports
from membership.effects import Peer
from membership.member import make_attributes
from tests.integration.channel.channel_rig import CLOCK, ENTROPY, NETWORK, Node, create, join, running

BATCH = 50
"""Few enough for the socket's buffer: none of them may be lost, or the test would show nothing."""

RANDOM_PACKETS = 1_000
MUTANTS = 1_000


class Recorded:
    """A datagram socket that remembers what passed."""

    def __init__(self, inner: Datagram) -> None:
        self._inner = inner
        self.received: list[tuple[bytes, Address]] = []
        self.sent: list[tuple[bytes, Address]] = []

    @property
    def address(self) -> Address:
        return self._inner.address

    def send(self, payload: bytes, destination: Address) -> bool:
        self.sent.append((payload, destination))
        return self._inner.send(payload, destination)

    async def receive(self) -> list[tuple[bytes, Address]]:
        batch = list(await self._inner.receive())
        self.received += batch
        return batch

    async def aclose(self) -> None:
        await self._inner.aclose()


class Gossiper:
    """A node's membership over its channel."""

    def __init__(self, node: Node, datagram: Recorded, peers: list[Peer]) -> None:
        self.node = node
        self.datagram = datagram
        channel = node.channel
        self.sealer = PacketSealer(channel.secrets.keyring, node.id, channel.boot)
        self.driver = MembershipDriver(
            node=node.id,
            boot=channel.boot,
            attributes=make_attributes(node.identity.node_name, node.address),
            config=for_profile("local"),
            ports=Ports(CLOCK, ENTROPY, datagram, NETWORK, node.disk, ThreadExecutor()),
            sealer=self.sealer,
            rpc=channel,
            bus=Bus(),
            metrics=node.metrics,
            learn=channel.learn,
            voices=NodeVoices(node.identity, ()),
            introduce=channel.connect_address,
            channel=channel,
            peers=peers,
        )


@asynccontextmanager
async def _gossiping(node: Node, *seeds: Node) -> AsyncIterator[Gossiper]:
    bound = Recorded(await NETWORK.bind(node.address))
    gossiper = Gossiper(node, bound, [Peer(seed.id, seed.address) for seed in seeds])
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: gossiper.driver.run(task_status=task_status))
        yield gossiper
        nursery.cancel_scope.cancel()
    await bound.aclose()


async def _show(target: Gossiper, attacker: socket.socket, packets: list[bytes]) -> None:
    """Send packets and wait until the node has read them all."""
    source = attacker.getsockname()
    for start in range(0, len(packets), BATCH):
        batch = packets[start : start + BATCH]
        before = sum(address.port == source[1] for _, address in target.datagram.received)
        for packet in batch:
            attacker.sendto(packet, (target.node.address.host, target.node.address.port))
        while sum(address.port == source[1] for _, address in target.datagram.received) < before + len(batch):  # noqa: ASYNC110
            await trio.sleep(0.001)


async def test_random_forged_and_replayed_packets_trigger_no_reply(tmp_path: Path) -> None:
    """Nothing is sent to whoever shows them, so the port neither answers strangers nor amplifies anything."""
    rng = random.Random(7)
    attacker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    attacker.bind(("127.0.0.1", 0))
    attacker.setblocking(False)
    with attacker:
        async with (
            running(await create(tmp_path / "a", "a")) as a,
            running(await join(tmp_path / "b", a, "b")) as b,
            _gossiping(a) as one,
            _gossiping(b, a) as two,
        ):
            with trio.fail_after(60):
                while len(one.datagram.received) < 20 or not _sees(one, two):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                genuine = [packet for packet, _ in one.datagram.received]
                noise = [rng.randbytes(rng.randint(0, 1_400)) for _ in range(RANDOM_PACKETS)]
                noise += [b"FG" + rng.randbytes(90) for _ in range(BATCH)] + [b"g" + rng.randbytes(60)] * BATCH
                noise += [b"", b"F", b"FG", b"g", bytes(PACKET_BYTES_MAX - 1_000)]
                await _show(one, attacker, noise + _mutants(genuine, rng) + genuine + _foreign(two))
            stranger = attacker.getsockname()[1]
            assert not [packet for packet, to in one.datagram.sent if to.port == stranger]
            assert not [packet for packet, to in two.datagram.sent if to.port == stranger]
            assert _silent(attacker)
            assert one.sealer.drops["replay"] >= len(genuine)
            assert one.sealer.drops["tag"] > 0
            assert _sees(one, two)


def _sees(gossiper: Gossiper, other: Gossiper) -> bool:
    view = gossiper.driver.get(other.node.id)
    return view is not None and view.status is Status.ALIVE


def _mutants(genuine: list[bytes], rng: random.Random) -> list[bytes]:
    """Genuine packets with one bit flipped, cut short, or lengthened."""
    found = []
    for _ in range(MUTANTS):
        packet = bytearray(rng.choice(genuine))
        packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
        found.append(bytes(packet))
    return found + [packet[:-1] for packet in genuine] + [packet + b"\0" for packet in genuine]


def _foreign(member: Gossiper) -> list[bytes]:
    """Whole packets in a member's name and in nobody's, under a key that is not the cluster's."""
    ring = Keyring((EpochKey(1, b"\x55" * 32),))
    node, boot = member.node.id, member.node.channel.boot
    sealers = [PacketSealer(ring, node, boot), PacketSealer(ring, node, BootId(boot + (1 << 32)))]
    packets = [sealer.seal(bytes(100)) for sealer in sealers for _ in range(BATCH)]
    assert all(len(packet) > HEADER_BYTES for packet in packets)
    return packets


def _silent(attacker: socket.socket) -> bool:
    try:
        attacker.recvfrom(65_536)
    except BlockingIOError:
        return True
    return False
