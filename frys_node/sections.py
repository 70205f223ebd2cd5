"""The sections of a node's configuration that belong to no component: ``[system]``, ``[network]``, ``[cluster]``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from frys_node.base.errors import ConfigError
from frys_node.base.types import Address
from frys_node.kernel.cell import LIVE

_NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"


class SystemConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This process."""

    name: Annotated[str, msgspec.Meta(max_length=63)] = ""
    """The node's name, unique in the cluster. Empty: the machine's host name."""
    data_dir: str = ""
    """Where the node keeps its identity and data. Empty: ``./frys-data/<name>``."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], msgspec.Meta(extra={"reload": LIVE})] = "info"
    """The least severe event that is written."""
    log_format: Annotated[Literal["auto", "json", "text"], msgspec.Meta(extra={"reload": LIVE})] = "auto"
    """``auto`` writes text on a terminal, else one JSON object a line."""
    grace_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 25.0
    """Longest orderly stop; keep it a few seconds below the time after which the orchestrator kills."""


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cluster port, TCP and UDP."""

    bind: str = "0.0.0.0:7946"
    """Address and port that other nodes reach. Only a default port that is busy moves up, at the first start."""
    advertise: str = ""
    """What other nodes are told to connect to; a name is resolved at the start. Empty: the bound address; bound to all,
    the one by which the issuer reaches this node, for the first node that of the default route, else loopback."""

    def __post_init__(self) -> None:
        Address.parse(self.bind)
        if self.advertise:
            Address.parse(self.advertise, 0)


MTU_MIN = 624
"""The smallest gossip packet with its IPv6 and UDP headers."""


ROTATE_MIN_S = 60.0
"""A gossip key has to spread before the next one comes."""


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cluster that this node makes or belongs to."""

    name: Annotated[str, msgspec.Meta(pattern=_NAME)] = "frys"
    """Nodes of another name are refused. Lower-case letters, digits, dots and dashes."""
    identity: Literal["ed25519", "ml-dsa-65"] = "ed25519"
    """Keys and certificates of nodes and authority: ``ml-dsa-65`` makes authentication post-quantum too, for 17 KB and
    about twice the CPU per connection. Fixed when the cluster is made; a joiner takes the cluster's."""
    profile: Literal["lan", "wan", "local"] = "lan"
    """Timings of membership: ``wan`` for links over 50 ms, ``local`` for nodes on one machine. A node that advertises
    a loopback address runs ``local`` unless one is chosen here."""
    seeds: tuple[str, ...] = ()
    """``host:port``, DNS names or services (``_frys._tcp.example.org``, by SRV) asked at the start and whenever no
    other member is known."""
    mtu: Annotated[int, msgspec.Meta(ge=0, le=8_240)] = 0
    """Smallest MTU of the links between nodes, from 624; gossip packets are made to fit. 0: 1,400 bytes a packet."""
    replication_factor: Annotated[int, msgspec.Meta(ge=1, le=7)] = 3
    """Copies of each unit, a target: never more than there are nodes. Read when the cluster is made."""
    partitions: Annotated[int, msgspec.Meta(ge=1, le=4_096)] = 256
    """Workflow partitions and cache units. Fixed when the cluster is made."""
    allow: tuple[str, ...] = ()
    """Networks (CIDR) of all members. Connections and packets of other addresses are dropped, and none goes there.
    Empty: any; certificates still decide."""
    rotate_keys_every_s: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 86_400.0
    """Age at which the issuer replaces the gossip key, give or take a tenth; 0: only when asked, and when a node is
    expelled."""
    rekey_after_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 << 30
    """Bytes after which a connection between nodes is replaced, to have fresh keys, give or take a fifth. 0: any."""
    rekey_after_s: Annotated[float, msgspec.Meta(ge=0, le=604_800)] = 3_600.0
    """Age at which a connection between nodes is replaced, to have fresh keys, give or take a fifth. 0: any."""
    knock: Literal["off", "send", "on"] = "off"
    """``on``: who does not show a gossip key before the handshake gets no answer on the cluster port. Newcomers get one
    from the issuer while a join token is valid, and there is no standing token. ``send``: show it only, on the way to
    ``on``."""
    zone: Annotated[str, msgspec.Meta(max_length=63)] = ""
    """Failure domain: replicas of a unit are in as many zones as there are. Another one moves units."""
    rack: Annotated[str, msgspec.Meta(max_length=63)] = ""
    """Failure domain within a zone: spread over as far as loads stay even. Another one moves units."""
    weight: Annotated[float, msgspec.Meta(gt=0, le=64)] = 1.0
    """This node's share of the units, against the others'."""
    tags: Annotated[dict[str, str], msgspec.Meta(max_length=32)] = {}
    """Free labels that members see. Never put a secret here."""

    def __post_init__(self) -> None:
        for seed in self.seeds:
            Address.parse(seed, 7946)
        if 0 < self.rotate_keys_every_s < ROTATE_MIN_S:
            raise ConfigError(
                f"cluster.rotate_keys_every_s ({self.rotate_keys_every_s:g}) is below {ROTATE_MIN_S:g}",
                hint="a key needs a second to spread; 0 to rotate only by `frys-node keys rotate`",
            )
        if 0 < self.mtu < MTU_MIN:
            raise ConfigError(
                f"cluster.mtu ({self.mtu}) is below {MTU_MIN}", hint="IPv6 guarantees 1280; 0 to not set it"
            )
        import ipaddress

        for network in self.allow:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"allow: {error}", hint="write a network such as 10.0.0.0/8") from None


class PluginSwitch(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that every plugin's section has besides its own."""

    enabled: bool = True
    """False: the plugin is not loaded."""
    module: str = ""
    """The Python module of a plugin that is not built in; it must be importable."""
