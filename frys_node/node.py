"""The composition root: the only file that names the concrete classes of a node's components.

Order of start: channel, membership, balancer, snapshots, replication, operations, then the plugins in the order of what
they provide and require. The kernel stops them in reverse. `boot` has brought the process this far.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from balancer.driver import BalancerComponent
from balancer.record import TopologyRecord
from balancer.settings import BalancerSettings
from balancer.steps import StepConfig
from balancer.topology import TopologyConfig
from frys_node.arrival import WILDCARDS, Arrival, Launch, read_text
from frys_node.base.ports import Network
from frys_node.base.types import Address, BootId, NodeId
from frys_node.channel.allowed import AllowedDatagram, AllowedNetwork, MutedNetwork, Turnstile
from frys_node.channel.departed import Barred
from frys_node.channel.driver import Channel, ChannelSettings
from frys_node.channel.gatekeeper import AllowList
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.registry import PluginSpec
from frys_node.kernel.services.certificates import WEB_CERTIFICATES
from frys_node.kernel.services.gossip import GOSSIP
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.members import MEMBERS
from frys_node.kernel.services.replication import REPLICATION
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.snapshots import SNAPSHOTS
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.listeners import listeners
from frys_node.operations import Operations, guard_issuer
from frys_node.plugins.network.access import is_loopback
from frys_node.removal import BelievedProofs, Removal
from frys_node.replication.driver import ReplicationComponent
from frys_node.saves import SnapshotRoutes
from frys_node.secure.errors import TokenRevoked
from frys_node.secure.identity import Identity
from frys_node.secure.local import JOIN_FILE
from frys_node.secure.packet import PacketSealer
from frys_node.secure.posture import WORDING
from frys_node.secure.voices import NodeVoices
from frys_node.secure.web_certificates import free_names
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.executor import ThreadExecutor
from frys_node.transport.named_files import read_named_file
from frys_node.transport.network import SystemNetwork
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.issuer import IssuerDesk
from frys_node.trust.web_certificates import WebCertificateDesk
from membership.config import MembershipConfig
from membership.driver import MembershipDriver, Ports
from membership.effects import Peer
from membership.member import make_attributes
from snapshots.driver import SnapshotComponent
from snapshots.reception import Reception

if TYPE_CHECKING:
    from snapshots.desk import Desk
    from snapshots.places import Places

UNIT_KINDS = ("cache", "vector", "workflow")
"""Plugins that hold units of the ring; one that is switched off on this node leaves its units to the others."""

SAVE_WORKERS_MAX = 6
"""Chunks of saved snapshots that are written or read at once."""

READY_WAIT_S = 30.0
READY_POLL_S = 0.02
REMOVAL_LOOK_S = 0.5
"""Pause between looks whether a removal that this node was told of still stands."""

log = logging.getLogger(__name__)


def accept_premade(desk: IssuerDesk, text: str) -> None:
    """Accept a token that was made before the cluster, such as a Kubernetes Secret (fine print 9); others are ignored.

    Raises:
        InvalidToken: It begins like one and is none.
    """
    if not text.startswith("frys0."):
        return
    try:
        desk.accept_premade(text)
    except TokenRevoked as error:
        fix = "put another one into FRYS_TOKEN (in Kubernetes: into the Secret), or take it out"
        log.warning("channel.revoked_token_offered", extra={"error": error.message, "fix": fix})


class Composition:
    """Builds the components of one node and starts them in order."""

    def __init__(
        self,
        launch: Launch,
        arrival: Arrival,
        identity: Identity,
        kernel: Kernel,
        network: SystemNetwork,
        secrets: MemberSecrets,
    ) -> None:
        self._launch = launch
        self._config = launch.config
        self._arrival = arrival
        self._identity = identity
        self._kernel = kernel
        self._allow = AllowList(launch.config.cluster.allow)
        self._network: Network = network
        self._datagram = arrival.datagram
        if launch.config.cluster.allow:
            turnstile = Turnstile(self._allow, kernel.clock, kernel.metrics)
            self._network = AllowedNetwork(network, turnstile)
            self._datagram = AllowedDatagram(arrival.datagram, turnstile)
        self._secrets = secrets
        self.channel = self._make_channel()
        self.membership = self._make_membership()
        self._proofs = BelievedProofs(identity, secrets.revoked, held=self._held)
        self.removal = self._make_removal()
        self._proofs.on_removed = self.removal.told
        self.balancer = self._make_balancer()
        self.balancer.on_removed = self._adopted_removal
        self.snapshots = SnapshotComponent(
            rpc=self.channel,
            disk=kernel.disk,
            executor=kernel.executor,
            clock=kernel.clock,
            metrics=kernel.metrics,
            config=self._config.components["snapshots"],
        )
        self.replication = ReplicationComponent(
            boot=arrival.boot,
            rpc=self.channel,
            keeper=self.balancer,
            members=self.membership,
            clock=kernel.clock,
            entropy=kernel.entropy,
            disk=kernel.disk,
            executor=kernel.executor,
            metrics=kernel.metrics,
            snapshots=self.snapshots,
            settings=self._config.components["replication"],
        )
        self.snapshots.tell_of(self.replication.reports.moves)
        self.balancer.machine.taken_bytes = self._taken_bytes
        self.operations = Operations(
            kernel=kernel,
            channel=self.channel,
            membership=self.membership,
            balancer=self.balancer,
            snapshots=self.snapshots,
            replication=self.replication,
            saves=SnapshotRoutes(self._make_reception().desk),
            settings=self._config.settings,
            listeners=lambda: listeners(self._config, arrival.listener.address, self._http_address),
            standby=self._config.components["balancer"].standby,
            is_trusted=self._proofs.is_trusted,
        )

    def _make_channel(self) -> Channel:
        arrival, kernel, cluster = self._arrival, self._kernel, self._config.cluster
        channel = Channel(
            identity=self._identity,
            boot=arrival.boot,
            network=self._network,
            listener=arrival.listener,
            clock=kernel.clock,
            entropy=kernel.entropy,
            disk=kernel.disk,
            metrics=kernel.metrics,
            advertise=arrival.advertise,
            secrets=self._secrets,
            allow=self._allow,
            settings=ChannelSettings(
                rotate_keys_every_s=cluster.rotate_keys_every_s,
                rekey_after_bytes=cluster.rekey_after_bytes,
                rekey_after_s=cluster.rekey_after_s,
                knock=cluster.knock,
            ),
        )
        guard_issuer(channel)
        for peer in arrival.peers:
            channel.learn(peer.node, peer.address, peer.name)
        if channel.desk is not None:
            accept_premade(channel.desk, os.environ.get("FRYS_TOKEN", "").strip())
        return channel

    def _make_removal(self) -> Removal:
        return Removal(
            self._kernel.disk,
            is_trusted=self._proofs.is_trusted,
            held=self._held,
            name_of=self._member_name,
            stop=self._kernel.request_stop,
        )

    def _make_membership(self) -> MembershipDriver:
        arrival, kernel, cluster = self._arrival, self._kernel, self._config.cluster
        places = {"zone": cluster.zone, "rack": cluster.rack}
        tags = dict(cluster.tags) | {name: place for name, place in places.items() if place}
        secrets = self.channel.secrets
        network = MutedNetwork(self._network, lambda: self.channel.is_expelled)
        barred = Barred(secrets.revoked, self.channel.departed)
        sealer = PacketSealer(secrets.keyring, self._identity.node_id, arrival.boot, barred)
        self.channel.watch_counter(sealer)
        sealer.on_doubt = self.channel.meet
        # A boot heard inside TLS makes packets of older boots stale at once, also for a node that has just restarted.
        self.channel.on_connection(lambda node, boot, ending: None if ending else sealer.note_boot(node, BootId(boot)))
        return MembershipDriver(
            node=self._identity.node_id,
            boot=arrival.boot,
            attributes=make_attributes(self._identity.node_name, arrival.advertise, "", tags),
            config=self._membership_config(),
            ports=Ports(kernel.clock, kernel.entropy, self._datagram, network, kernel.disk, kernel.executor),
            sealer=sealer,
            rpc=self.channel,
            bus=kernel.bus,
            metrics=kernel.metrics,
            learn=self.channel.learn,
            voices=NodeVoices(self._identity, secrets.revoked),
            introduce=self.channel.connect_address,
            channel=self.channel,
            peers=[Peer(peer.node, peer.address) for peer in arrival.peers],
        )

    def _membership_config(self) -> MembershipConfig:
        """Return the settings of membership, with all seeds: its own, the cluster's, those of the command line."""
        config: MembershipConfig = self._config.components["membership"]
        seeds = [*config.seeds, *self._config.cluster.seeds, *self._launch.seeds]
        # Whoever let it in, too: a newcomer that died before it had met and noted anybody would be alone for ever.
        seeds += map(str, self._identity.seeds)
        return msgspec.structs.replace(config, seeds=tuple(dict.fromkeys(seeds)))

    def _make_balancer(self) -> BalancerComponent:
        kernel, cluster = self._kernel, self._config.cluster
        auto_remove_after_s = self._config.components["balancer"].auto_remove_after_s
        settings = BalancerSettings(
            cluster=self._identity.cluster_id,
            kinds=tuple(kind for kind in UNIT_KINDS if kind in {spec.name for spec in self._config.specs}),
            # A standby holds the key too; only the founder was its own issuer when it came.
            is_founder=self._identity.is_issuer and self._identity.issuer == self._identity.node_id,
            partitions=cluster.partitions,
            replication_factor=cluster.replication_factor,
            weight=max(1, round(cluster.weight * 100)),
            zone=cluster.zone,
            rack=cluster.rack,
            topology=TopologyConfig(steps=StepConfig(auto_remove_after_s=auto_remove_after_s or math.inf)),
        )
        return BalancerComponent(
            settings=settings,
            rpc=self.channel,
            members=self.membership,
            clock=kernel.clock,
            entropy=kernel.entropy,
            disk=kernel.disk,
            executor=kernel.executor,
            bus=kernel.bus,
            metrics=kernel.metrics,
            proofs=self._proofs,
        )

    def _held(self) -> TopologyRecord | None:
        return self.balancer.machine.record

    def _adopted_removal(self) -> None:
        """An earlier version took a record that removes this node for its own: it is held off like one that is told."""
        machine = self.balancer.machine
        if machine.record is not None and machine.signed is not None:
            self.removal.told(machine.record, machine.signed)

    def _make_reception(self) -> Reception:
        kernel = self._kernel
        return Reception(rpc=self.channel, executor=kernel.executor, metrics=kernel.metrics, load=self._load_desk)

    def _load_desk(self) -> Callable[[], Desk]:
        """Import all that saving, sealing and restoring take; returns what makes the desk."""
        from snapshots.desk import Desk
        from snapshots.places import Places

        return partial(self._make_desk, Desk, Places)

    def _make_desk(self, desk: type[Desk], places: type[Places]) -> Desk:
        kernel = self._kernel
        # A store may hang, and a disk under a save is slow: neither may take the threads that sync the journals.
        workers = ThreadExecutor(SAVE_WORKERS_MAX)
        known = places(
            disk=kernel.disk,
            executor=workers,
            environ=os.environ,
            open_directory=lambda path: DirectoryDisk(Path(path)),
            read_file=read_named_file,
            own=str(self._arrival.data_dir),
        )
        return desk(
            self.snapshots,
            rpc=self.channel,
            topology=self.balancer,
            members=self.membership,
            clock=kernel.clock,
            entropy=kernel.entropy,
            executor=workers,
            metrics=kernel.metrics,
            places=known,
            cluster_name=self._identity.cluster_name,
            settings=self._config.settings,
        )

    def _hosts_of(self, node: NodeId) -> list[str]:
        """Return what a member's HTTP may be known by: its certificate's name, and where its connection comes from."""
        if node == self._identity.node_id:
            return free_names(self._identity.node_name, self._arrival.advertise.host)
        return free_names(*self.channel.proven(node))

    def _make_web_certificates(self) -> WebCertificateDesk:
        kernel, channel = self._kernel, self.channel
        desk = WebCertificateDesk(
            self._identity,
            channel,
            kernel.disk,
            kernel.entropy,
            kernel.clock,
            issuer=lambda: channel.issuer,
            names_of=self._hosts_of,
            permitted=self._config.plugins["network"].tls_names,
        )
        desk.serve()
        channel.authority.on_trust.append(desk.authority_changed)
        return desk

    async def start(self) -> None:
        """Start everything in order; returns when the node is ready to serve."""
        kernel, services = self._kernel, self._kernel.services
        services.provide(RPC, self.channel)
        services.provide(MEMBERS, self.membership)
        services.provide(GOSSIP, self.membership.gossip)
        services.provide(TOPOLOGY, self.balancer)
        services.provide(SNAPSHOTS, self.snapshots)
        services.provide(REPLICATION, self.replication)
        kernel.control.add_status("security", lambda: WORDING[self._identity.kind])
        services.provide(WEB_CERTIFICATES, self._make_web_certificates())
        kernel.control.add_status("replication", self.replication.status)
        kernel.control.add_status("topology", self.balancer.status)
        kernel.control.add_status("trouble", lambda: self.channel.trouble or self.removal.trouble)
        kernel.control.add_check("gossip", lambda: self.channel.trouble or None)
        kernel.control.add_check("removal", lambda: self.removal.trouble or None)
        components = (
            *(self.channel, self.membership, self.balancer),
            *(self.snapshots, self.replication, self.operations),
        )
        for component in components:
            await kernel.start(component, essential=True)
        kernel.control.add_status("settings_differ", self.membership.settings_differ)
        await self._first_record()
        await self._removal_over()
        await kernel.load_plugins(
            self._rest(), self._config.plugins, self._config.modules, chosen=self._config.chosen()
        )
        kernel.mark_started()
        await self._until_ready()
        self._launch.on_ready(self.describe(self._http_address()))
        self._arrival.keep_given()

    def _http_address(self) -> str:
        http = self._kernel.services.find(HTTP)
        return "" if http is None else http.address

    def _rest(self) -> list[PluginSpec]:
        """Return the plugins that `boot` has not loaded yet."""
        loaded = {view.name for view in self._kernel.control.components()}
        return [spec for spec in self._config.specs if spec.name not in loaded]

    async def _first_record(self) -> None:
        """Wait for the topology record: a newcomer gets it from its first peers; plugins cannot place a key before."""
        while self.balancer.machine.placement is None:
            await self.balancer.changed()

    async def _removal_over(self) -> None:
        """Wait while a record says that this node was removed: it can be administered meanwhile, and serves nothing."""
        if trouble := self.removal.trouble:
            log.error("operations.removed_and_waits", extra={"trouble": trouble})
            if self._launch.is_detached:
                # Whoever started it is told what it waits for, and not kept.
                self._launch.on_ready(self.describe(self._http_address()))
        while not self.removal.is_over() and not self._kernel.control.stop_reason:  # noqa: ASYNC110 (many sources)
            await trio.sleep(REMOVAL_LOOK_S)
        self.removal.is_serving = True

    async def _until_ready(self) -> None:
        """Wait until traffic may come. What is down for good keeps nobody waiting for ever: the banner names it."""
        control = self._kernel.control
        with trio.move_on_after(READY_WAIT_S):
            while not control.is_ready() and not control.stop_reason:  # noqa: ASYNC110 (many sources, no event)
                await trio.sleep(READY_POLL_S)

    def _taken_bytes(self) -> int:
        return self.snapshots.taken_bytes() + self.replication.replica.bulks.pulled_bytes

    def _issuer_name(self) -> str:
        return self._member_name(self.channel.issuer)

    def _member_name(self, node: NodeId) -> str:
        view = self.membership.get(node)
        return view.name if view is not None else node

    def _arriving(self) -> list[str]:
        """Return a note for a newcomer that serves already and whose share of the data is on its way."""
        machine = self.balancer.machine
        record = machine.record
        is_on_ring = record is not None and any(member.node == self._identity.node_id for member in record.ring)
        if not self._arrival.peers or (is_on_ring and not machine.waiting):
            return []
        return ["its share of the data arrives in the background (frys-node ring); requests are served meanwhile"]

    def _for_others(self, bound: Address) -> str:
        """Return the options to start this node with so that other machines can join, empty if they can."""
        if not self._arrival.is_local:
            return ""
        if not is_loopback(bound.host):
            return f"--advertise H:{bound.port}"
        host = "[::]" if ":" in bound.host else "0.0.0.0"  # noqa: S104 (advice, not bound to)
        chosen = " --advertise H:P" if self._config.network.advertise else ""
        return f"--bind {host}:{bound.port}{chosen}"

    def describe(self, http: str) -> dict[str, Any]:
        """Return what `start` prints."""
        arrival = self._arrival
        token_path = arrival.data_dir / JOIN_FILE
        has_token = bool(read_text(arrival.disk, JOIN_FILE))
        bound = arrival.listener.address
        notes = list(arrival.notes)
        wanted_port = Address.parse(self._config.plugins["network"].http).port
        if http and wanted_port not in (0, Address.parse(http).port):
            notes.append(f"port {wanted_port} was busy: HTTP is on {Address.parse(http).port}")
        return {
            "name": self._identity.node_name,
            "id": self._identity.node_id,
            "cluster": self._identity.cluster_name,
            "address": str(arrival.advertise),
            "http": http,
            "security": WORDING[self._identity.kind],
            "scheme": "https" if self._config.plugins["network"].is_tls else "http",
            "data_dir": str(arrival.data_dir),
            "issuer": self._issuer_name(),
            "join_local": str(Address("127.0.0.1", bound.port) if bound.host in WILDCARDS else bound),
            "join_remote": "" if arrival.is_local else str(arrival.advertise),
            "for_others": self._for_others(bound),
            "waits_for": [f"{c.name}: {c.detail}" for c in self._kernel.control.readiness() if not c.ok],
            "join_token_file": str(token_path) if has_token else "",
            "notes": [*notes, *self._arriving()],
        }
