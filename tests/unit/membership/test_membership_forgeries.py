"""What a hostile or broken member may say: nothing of it breaks a node, speaks in its name or takes its memory."""

from __future__ import annotations

import msgspec
import pytest
from membership_hands import BOOT, ME, B, C, address, claim, hear, machine, own, run_to, sent, status
from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Status
from membership.config import for_profile
from membership.driver_exchange import PUSH_PULL
from membership.machine import NOBODY
from membership.member import AGE_S_MAX, UPDATE_BYTES_MAX, is_acceptable, make_attributes
from membership.messages import (
    INCARNATION_MAX,
    PACKETS,
    SYNC_PLAIN_BYTES_MAX,
    UPDATES,
    Attributes,
    Gossip,
    Ping,
    PingReq,
    Standing,
    Sync,
)
from membership.rumours import RUMOURS
from membership.testimony import CrashReport


def test_a_forged_age_does_not_break_the_next_exchange() -> None:
    """An age beyond what anybody remembers is refused: told on, it would be a number that no message holds."""
    m = machine(B, C)
    hear(m, Gossip((claim(C, Standing.DEAD, 1, age_s=(1 << 64) - 1),)))
    assert m.tallies.dropped == {("unacceptable",): 1}
    assert status(m, C) is Status.ALIVE
    hear(m, Gossip((claim(C, Standing.DEAD, 1, age_s=AGE_S_MAX),)))
    assert status(m, C) is Status.DEAD
    (told,) = [update for update in m.sync(NOBODY, 100.0).updates if update.node == C]
    assert UPDATES.decode(UPDATES.encode(told)) == told
    assert msgspec.json.encode(m.views(100.0))


def test_the_last_incarnation_is_not_passed() -> None:
    """Accused under the highest incarnation there is, a node goes on to say what others can read."""
    m = machine(B, C)
    hear(m, Gossip((claim(ME, Standing.SUSPECT, INCARNATION_MAX, accuser=B),)))
    assert own(m) == INCARNATION_MAX
    hear(m, Gossip((), (RUMOURS.encode(CrashReport(ME, BOOT, INCARNATION_MAX, B, True)),)))
    m.set_attributes(make_attributes("0", address(ME), "", {"a": "1"}), 0.2)
    assert own(m) == INCARNATION_MAX
    heard = [packet for _, packet in sent(run_to(m, 3.0))]
    assert any(update.node == ME for packet in heard for update in packet.updates)
    m.leave(3.1)
    assert sent(run_to(m, 4.0))


def test_an_update_over_its_size_is_refused() -> None:
    """Limits of characters are not limits of bytes: such claims fill packets and make pieces larger than a frame."""
    wide = Attributes("\N{SNOWMAN}" * 64, "\N{SNOWMAN}" * 255, 7946)
    assert len(UPDATES.encode(replace(claim(B), attributes=wide))) > UPDATE_BYTES_MAX - 128
    large = replace(wide, http="\N{SNOWMAN}" * 200)
    assert not is_acceptable(replace(claim(B), attributes=large))
    honest = make_attributes("n" * 64, address(B), "", {"k": "v" * 480})
    assert is_acceptable(replace(claim(B), attributes=honest, accuser=C))
    m = machine(config=for_profile("lan", members_max=2_000))
    for start in range(0, 600, 300):
        ids = (NodeId(f"{number:032x}") for number in range(start, start + 300))
        m.merge_sync(Sync(tuple(replace(claim(node), attributes=large) for node in ids)), B, 0.0)
        ids = (NodeId(f"{number:032x}") for number in range(start, start + 300))
        m.merge_sync(Sync(tuple(replace(claim(node), attributes=honest) for node in ids)), B, 0.0)
    assert len(PUSH_PULL.reply.encode(m.sync(NOBODY, 0.0))) < SYNC_PLAIN_BYTES_MAX


@pytest.mark.parametrize("packet_bytes_max", [576, 1_400])
def test_what_should_ride_along_and_does_not_fit_stays_behind(packet_bytes_max: int) -> None:
    """A packet never exceeds its size, even for a helper that is suspect and asked about a host of a long name."""
    config = for_profile("lan", watchers=0, packet_bytes_max=packet_bytes_max)
    m = machine(config=config)
    long = Attributes("c", "h" * 255, 7946, "", (("k", "v" * 500),))
    m.merge_sync(Sync((claim(B, Standing.SUSPECT, accuser=C), replace(claim(C), attributes=long))), B, 0.0)
    hear(m, Gossip((replace(claim(C, Standing.SUSPECT, accuser=B), attributes=long),)))
    packets = sent(hear(m, Ping(1, NodeId("")), C)) + sent(run_to(m, 4.0))
    assert any(isinstance(packet, PingReq) for _, packet in packets)
    assert all(len(PACKETS.encode(packet)) <= config.payload_bytes_max for _, packet in packets)
