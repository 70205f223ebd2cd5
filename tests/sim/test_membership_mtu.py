"""Clusters on links with a small MTU whose members have many tags: no claim about them fits into a packet whole."""

from __future__ import annotations

import pytest

from frys_node.sections import MTU_MIN
from frys_node.testing.faults import FaultProfile
from frys_node.testing.membership_cluster import Cluster
from membership.config import for_profile, packet_bytes_for


@pytest.mark.parametrize(("mtu", "tags_bytes", "loss"), [(700, 400, 0.05), (MTU_MIN, 490, 0.2)])
def test_nobody_is_buried_because_its_refutation_fits_into_no_packet(mtu: int, tags_bytes: int, loss: float) -> None:
    """Suspicions and refutations travel without attributes; with state exchanges alone 20 % loss buried the living."""
    cluster = Cluster(
        "mtu",
        10,
        60.0,
        1,
        "none",
        config=for_profile("lan", packet_bytes_max=packet_bytes_for(mtu)),
        profile=FaultProfile(name="lossy", loss=loss),
    )
    cluster.run(5.0)
    for name in cluster.names:
        cluster.simulator.inject(name, {"note": "x" * tags_bytes})
    cluster.run(60.0)
    events = [shell.machine.tallies.events for shell in cluster.shells]
    assert sum(counts.get((event,), 0) for counts in events for event in ("death", "false_death")) == 0
    assert sum(shell.machine.tallies.oversized.get(("brief",), 0) for shell in cluster.shells) > 0
    cluster.agree(20.0, "everybody knows everybody's tags")
