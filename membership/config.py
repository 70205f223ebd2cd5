"""Settings of membership, with profiles for a LAN, a WAN and a cluster on one machine's loopback.

Times are seconds. The meaning of the multipliers is that of the SWIM and Lifeguard papers and of memberlist, so that
what an operator knows about those holds here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from frys_node.base.errors import ConfigError

SEALING_BYTES = 52
"""What `secure` adds to a packet: header, counter and tag (see `frys_node.secure.packet`)."""

SHORT_SEALING_BYTES = 27
"""The same for a packet between acquaintances."""

HEADER_BYTES = 48
"""What IPv6 and UDP put in front of a packet; IPv4 takes less."""

IPV4_HEADER_BYTES = 28
"""What IPv4 and UDP put in front of a packet."""

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=7 * 86_400)]
_Small = Annotated[int, msgspec.Meta(ge=1, le=16)]


class MembershipConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every knob of the membership component. The defaults are the ``lan`` profile."""

    probe_interval_s: _Seconds = 1.0
    """One member is probed per interval. Longer saves traffic and delays detection in proportion."""
    ack_timeout_s: _Seconds = 0.5
    """Longest wait for a direct ack before helpers are asked; less than `probe_interval_s`. The wait follows the
    member's round trips (srtt + 4 * rttvar) and is this long while nothing has been measured."""
    ack_timeout_min_s: _Seconds = 0.05
    """Shortest wait for a direct ack, however fast the round trips were; `ack_timeout_s` if that is less."""
    helpers: _Small = 3
    """Members asked for an indirect ping when the direct one goes unanswered (k in the SWIM paper)."""
    suspicion_multiplier: Annotated[float, msgspec.Meta(ge=1, le=64)] = 4.0
    """Shortest suspicion = this * max(1, log10 n) * `probe_interval_s`."""
    suspicion_max_multiplier: Annotated[float, msgspec.Meta(ge=1, le=64)] = 6.0
    """Longest suspicion = this * the shortest; it holds while nobody confirms."""
    confirmations: _Small = 3
    """Independent accusers that bring a suspicion down to its shortest (K in the Lifeguard paper)."""
    gossip_interval_s: _Seconds = 0.1
    """Pause between rounds of gossip; no round is run when there is nothing to say."""
    gossip_fanout: _Small = 3
    """Members told per round; twice as many while more claims wait than a packet holds."""
    retransmit_multiplier: _Small = 4
    """Each update is sent this * ceil(log10(n + 1)) times by each node."""
    push_pull_interval_s: _Seconds = 30.0
    """Full exchange with one random member; stretched by log2(n) - 4 in clusters over 32 members."""
    reconnect_interval_s: _Seconds = 2.0
    """One dead or not yet met member is tried per interval, so that partitions heal by themselves."""
    packet_bytes_max: Annotated[int, msgspec.Meta(ge=576, le=8_192)] = 1_400
    """Largest UDP payload, sealing included; `[cluster] mtu` sets it from the links' MTU."""
    compress_above_bytes: Annotated[int, msgspec.Meta(ge=0, le=8_192)] = 512
    """Packets longer than this are compressed if they gain by it; 0: never. State exchanges always are."""
    members_max: Annotated[int, msgspec.Meta(ge=2, le=65_536)] = 4_096
    """Members remembered, of any status. Unknown ones beyond it are refused and counted."""
    dead_reap_s: _Seconds = 72 * 3_600.0
    """A dead member is forgotten after this."""
    dead_reclaim_s: _Seconds = 30.0
    """A node may take the name of a member that has been dead for this long; that one then counts as having left."""
    left_reap_s: _Seconds = 24 * 3_600.0
    """A member that left is forgotten after this."""
    leave_timeout_s: _Seconds = 5.0
    """Longest wait for somebody to acknowledge a leave."""
    peers_max: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 1_024
    """Peers kept on disk for the next start."""
    persist_interval_s: _Seconds = 2.0
    """Changes of the peers are written at most this often."""
    lha_probe: bool = True
    """Stretch probes by this node's own health (Lifeguard's LHA-Probe). Off only to measure what it is worth."""
    lha_suspicion: bool = True
    """Suspicions start long and shrink with every accuser (LHA-Suspicion). Off: always the shortest."""
    buddy: bool = True
    """Whoever sends to a suspect tells it so in that packet (Lifeguard's buddy system)."""
    accusers: Annotated[int, msgspec.Meta(ge=1, le=2)] = 2
    """Members that must accuse another one before it is dead, or as many as are left. 1, which lets any member bury any
    other, only to measure what it is worth."""
    watchers: Annotated[int, msgspec.Meta(ge=0, le=8)] = 3
    """Members that watch each one by regular beats and a lifeline; 0 leaves all to the probes. The same
    everywhere: `frys-node status` lists members where it is not."""
    watch_interval_s: _Seconds = 1.0
    """A watcher's beat. Three watchers at one second cost a node six small packets a second."""
    watch_pause_s: _Seconds = 0.5
    """Silence beyond a beat that is forgiven before phi grows. 1 in the ``lan`` profile without crash evidence: then no
    nudge tells a pause from a loss."""
    watch_deviation_min_s: _Seconds = 0.1
    """Least deviation that phi assumes of the beats' intervals, so that a calm network does not make it nervous."""
    gone_multiplier: Annotated[float, msgspec.Meta(ge=1, le=64)] = 2.5
    """Shortest suspicion of a member whose kernel is silent too = this * max(1, log10 n) * `watch_interval_s`."""
    crash_evidence: Literal["on", "suspect-only", "off"] = "on"
    """`on`: a lost lifeline and refused connections at two observers shorten a suspicion to `crash_suspicion_s`.
    `suspect-only`: they raise one and do not shorten it. `off`: lifelines say nothing; for clusters with a proxy that
    terminates TCP, which refuses and acknowledges in the name of nodes behind it. Set it alike on every node: each
    weighs what it finds out about others by its own setting."""
    crash_suspicion_s: Annotated[float, msgspec.Meta(ge=0.3, le=60)] = 0.5
    """Shortest suspicion of a crash that two observers testify; below 0.3 a refutation may come too late."""
    stall_max_s: Annotated[float, msgspec.Meta(gt=0, le=100)] = 30.0
    """A member whose kernel answers while it does not is stalled, not dead, for this long. Its connections are given up
    after 120 s, and then nothing speaks for it any more."""
    seeds: tuple[str, ...] = ()
    """``host:port`` or DNS names asked at the start and whenever no other member is known."""

    def __post_init__(self) -> None:
        if self.ack_timeout_s >= self.probe_interval_s:
            raise ConfigError(
                f"ack_timeout_s ({self.ack_timeout_s}) must be less than probe_interval_s ({self.probe_interval_s})",
                hint="leave at least as long for the helpers as for the direct ping",
            )

    @property
    def payload_bytes_max(self) -> int:
        """Largest message before sealing."""
        return self.packet_bytes_max - SEALING_BYTES

    @property
    def pulse_s(self) -> float:
        """How often a node asks others how they do, beats included; late by half of that, it stood still."""
        return self.watch_interval_s if self.watchers else self.probe_interval_s

    @property
    def nack_after_s(self) -> float:
        """How long a helper waits before it answers nack: early enough to arrive within the asker's interval."""
        return 0.8 * min(self.ack_timeout_s, self.probe_interval_s - self.ack_timeout_s)


PROFILES: dict[str, dict[str, Any]] = {
    "lan": {},
    "wan": {
        "probe_interval_s": 5.0,
        "ack_timeout_s": 3.0,
        "ack_timeout_min_s": 0.3,
        "suspicion_multiplier": 6.0,
        "gossip_interval_s": 0.3,
        "gossip_fanout": 4,
        "push_pull_interval_s": 60.0,
        "reconnect_interval_s": 10.0,
        "watch_interval_s": 2.0,
        "watch_pause_s": 3.0,
        "watch_deviation_min_s": 0.2,
        "crash_suspicion_s": 2.0,
        "stall_max_s": 60.0,
    },
    "local": {
        "probe_interval_s": 0.3,
        "ack_timeout_s": 0.15,
        "ack_timeout_min_s": 0.02,
        # A loop that is busy for a second on a crowded machine is no crash; a kill is still declared in two seconds.
        "suspicion_multiplier": 5.0,
        "gossip_interval_s": 0.05,
        "push_pull_interval_s": 10.0,
        "reconnect_interval_s": 1.0,
        "persist_interval_s": 1.0,
        "watch_interval_s": 0.5,
        "watch_deviation_min_s": 0.05,
        "crash_suspicion_s": 0.3,
    },
}
"""What each profile changes against the defaults. ``local`` is for nodes that share one machine's loopback."""


PAUSE_WITHOUT_NUDGE_S = 1.0
"""`watch_pause_s` of the ``lan`` profile where no nudge follows."""


def packet_bytes_for(mtu: int) -> int:
    """Return the largest packet that fits into one frame of a link, whichever IP it travels by."""
    return mtu - HEADER_BYTES


def follows(settings: Mapping[str, Any], *, profile: str, mtu: int = 0) -> dict[str, tuple[Any, str]]:
    """Return what follows from the profile and from other settings where nobody sets it.

    Returns:
        Field to value and what it follows from, empty for the profile itself.
    """
    found = {field: (value, "") for field, value in PROFILES[profile].items()}
    if profile == "lan" and settings.get("crash_evidence") == "off":
        found["watch_pause_s"] = (PAUSE_WITHOUT_NUDGE_S, "crash_evidence off")
    if mtu:
        found["packet_bytes_max"] = (packet_bytes_for(mtu), "cluster.mtu")
    return found


def for_profile(name: str, **overrides: Any) -> MembershipConfig:
    """Return the settings of ``lan``, ``wan`` or ``local`` with overrides on top.

    Raises:
        ConfigError: No such profile. Nothing was changed.
    """
    if name not in PROFILES:
        raise ConfigError(f"no membership profile '{name}'", hint="use lan, wan or local")
    return MembershipConfig(**{field: v for field, (v, _) in follows(overrides, profile=name).items()} | overrides)
