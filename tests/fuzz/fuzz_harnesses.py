"""The harnesses by name: each takes any bytes, and raises only when something is wrong."""

from __future__ import annotations

from typing import Protocol

from fuzz_http import HttpHarness
from fuzz_machine import (
    BATCH,
    PACKET,
    RUMOUR,
    SYNC,
    MachineHarness,
    catch_up_seeds,
    packet_seeds,
    rumour_seeds,
    sync_seeds,
)
from fuzz_resp import RespHarness
from fuzz_saved import SavedHarness, SealedHarness
from fuzz_tokens import BearerHarness, TokenHarness
from fuzz_topology import TopologyHarness
from fuzz_wire import ChannelHarness, FrameHarness, SealHarness


class Harness(Protocol):
    """What is fuzzed."""

    def seeds(self) -> list[bytes]:
        """Inputs to begin with, made from the golden files."""
        ...

    def run(self, data: bytes) -> None:
        """Feed one input; whatever is raised is a finding."""
        ...


HARNESSES: dict[str, Harness] = {
    "packets": MachineHarness(PACKET, packet_seeds()),
    "syncs": MachineHarness(SYNC, sync_seeds()),
    "rumours": MachineHarness(RUMOUR, rumour_seeds()),
    "catch_up": MachineHarness(BATCH, catch_up_seeds()),
    "seal": SealHarness(),
    "frames": FrameHarness(),
    "channel": ChannelHarness(),
    "resp": RespHarness(),
    "saved": SavedHarness(),
    "sealed": SealedHarness(),
    "topology": TopologyHarness(),
    "tokens": TokenHarness(),
    "bearers": BearerHarness(),
    "http": HttpHarness(),
}
