"""How a process becomes a node: its data directory, its cluster port, its identity.

A directory with an identity is a restart. Without one, `start` creates a cluster and `join` is let into one; a
directory whose name the issuer chooses is made under a temporary name, and an arrival that fails leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio

from frys_node.base.errors import ConfigError, CorruptData, FrysError, UsageError
from frys_node.base.ports import Clock, Datagram, Disk, Entropy, Network, StreamListener
from frys_node.base.types import Address, BootId
from frys_node.config import KEPT, NodeConfig
from frys_node.observe.log import register_secret
from frys_node.plugins.network.access import is_loopback
from frys_node.plugins.network.binding import PortBook, listen_or_move
from frys_node.secure.selfcheck import check_cryptography
from frys_node.secure.stored import LEFT_PATH, REMOVED, StoredIdentity, next_boot, read_stored
from frys_node.transport.addresses import family_of, sockaddr
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.errors import AddressInUse
from frys_node.transport.network import SystemNetwork
from frys_node.transport.premises import settle_directory
from frys_node.transport.route import default_route_host, host_towards

if TYPE_CHECKING:
    from frys_node.channel.bootstrap import KnownPeer
    from frys_node.secure.identity import Identity

DEFAULT_PORT = 7946
KEPT_PATH = "addresses.json"
GIVEN_PATH = "given.json"
OWN_KEYS = frozenset({"system.name", "system.data_dir", "cluster.name", "cluster.identity"})
"""Settings that a data directory knows for good: giving them again changes nothing."""
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 (compared with, not bound to)
CHECK_SEEDS_S = 2.0
"""Longest wait for seeds to say which cluster they are of, when the directory has one already."""
KEYS_SHOWN_MAX = 6
"""Settings that the note of a start names; the rest are counted."""
BIND_TRIES = 8
"""Ephemeral TCP ports tried until the same UDP port is free too."""


class NodeHasLeft(UsageError):
    """The data directory is that of a node that left its cluster or was removed. Nothing was started or changed."""

    code = "node.has_left"
    status = 409


class Launch(NamedTuple):
    """What the command line decided."""

    config: NodeConfig
    name: str
    name_chosen: bool
    data_dir: Path | None
    """None: ./frys-data/<name>, once the issuer has settled the name."""
    seeds: tuple[str, ...]
    joining: bool
    token_file: str | None
    token_text: str
    """What was read from standard input, for ``--token-file -``."""
    reload: Callable[[], NodeConfig]
    """Reads the settings again from where they came."""
    on_ready: Callable[[dict[str, Any]], None]
    is_detached: bool = False
    """Somebody waits for `on_ready`, and for nothing else."""


class Arrival(NamedTuple):
    """A process that is about to be a node."""

    stored: StoredIdentity
    boot: BootId
    data_dir: Path
    disk: DirectoryDisk
    listener: StreamListener
    datagram: Datagram
    advertise: Address
    peers: tuple[KnownPeer, ...]
    notes: list[str]
    """What the person should know: a port that moved, a name that was changed, what was given to the last start."""
    given: Mapping[str, str]
    """Where each setting comes from; see `given_to`."""

    def keep_given(self) -> None:
        """The person was told: the next start compares itself with this one."""
        data = msgspec.json.format(msgspec.json.encode(self.given), indent=2) + b"\n"
        with suppress(FrysError):  # a full disk: the node serves, and a note is missing
            if self.disk.read(GIVEN_PATH) != data:
                self.disk.write(GIVEN_PATH, data)

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the node."""
        return is_loopback(self.advertise.host)

    def identity(self, clock: Clock) -> Identity:
        """Load keys and certificates, and tell this user's other commands where the node lives.

        Raises:
            CorruptData: They do not fit one another.
        CryptographyTooOld: The installed library cannot use them.
        """
        check_cryptography(self.stored.kind)
        from frys_node.secure.identity import load_identity
        from frys_node.secure.local import LocalNode, register_node, registry_path

        identity = load_identity(self.disk)
        assert identity is not None, "the identity was there a moment ago and the directory is locked"
        node = LocalNode(
            data_dir=str(self.data_dir.resolve()),
            name=identity.node_name,
            cluster=identity.cluster_name,
            ca_hash=identity.ca_hash,
            address=str(self.advertise),
            started_unix_ns=clock.unix_ns(),
        )
        try:
            register_node(registry_path(os.environ, Path.home()), node)
        except FrysError as error:
            # Without the list the node runs all the same.
            self.notes.append(f"{error.message}: `join` on this machine will need --token-file")
        return identity


async def arrive(launch: Launch, network: SystemNetwork, entropy: Entropy, clock: Clock) -> Arrival:
    """Open or make the data directory, bind the cluster port, and load or obtain the identity.

    Raises:
        FrysError: Why not; nothing that was made stays.
    """
    directory = launch.data_dir or Path("frys-data") / f".joining-{os.getpid()}"
    is_new = not directory.exists()
    disk = DirectoryDisk(directory)
    try:
        mended = settle_directory(directory)
        disk.lock()
        arrival = await _settle(launch, directory, disk, network, entropy, clock)
        arrival.notes.extend([mended] * bool(mended))
        return arrival
    except BaseException:
        disk.close()
        if is_new:
            shutil.rmtree(directory, ignore_errors=True)
            if launch.data_dir is None or not launch.config.is_chosen("system.data_dir"):
                with suppress(OSError):  # it holds other nodes, or was never made
                    directory.parent.rmdir()
        raise


async def _settle(
    launch: Launch,
    directory: Path,
    disk: DirectoryDisk,
    network: SystemNetwork,
    entropy: Entropy,
    clock: Clock,
) -> Arrival:
    config = launch.config
    stored = read_stored(disk)
    if stored is not None:
        check_has_not_left(disk, directory, stored)
        if launch.joining:
            # Before the port is bound: a seed may be this node itself.
            await check_seeds(launch.seeds, directory, stored, network, clock)
    notes: list[str] = []
    wanted = Address.parse(config.network.bind)
    (listener, datagram), _ = await listen_or_move(
        "cluster",
        wanted,
        lambda address: bind_both(network, address),
        is_chosen=config.is_chosen("network.bind"),
        book=PortBook(disk),
    )
    if listener.address.port != wanted.port and wanted.port:
        notes.append(f"port {wanted.port} was busy: the cluster port is {listener.address.port}")
    peers: tuple[KnownPeer, ...] = ()
    try:
        advertise = await advertised(config, listener.address, network)
        towards = partial(advertised_to, config, listener.address, advertise)
        if stored is None and launch.joining:
            peers, advertise = await _join(launch, disk, network, entropy, clock, towards)
        elif stored is None:
            from frys_node.channel.bootstrap import create_cluster

            check_cryptography(config.cluster.identity)
            create_cluster(
                disk,
                entropy,
                clock,
                cluster_name=config.cluster.name,
                node_name=launch.name,
                kind=config.cluster.identity,
            )
        elif stored.seeds:
            # It is told the same as at the join, of which the issuer's address is kept first.
            advertise = towards(Address.parse(stored.seeds[0]))
        stored = stored or read_stored(disk)
        assert stored is not None
        if stored.node_name != launch.name and not launch.name_chosen and peers:
            notes.append(f"the name '{launch.name}' was taken: this node is '{stored.node_name}'")
        if launch.data_dir is None:
            directory, disk = _rename(directory, disk, stored.node_name)
        check_settings(launch, stored)
        keep_addresses(disk, config)
        given = given_to(config)
        notes += note_on_given(disk, given)
        boot = next_boot(disk, entropy)
    except BaseException:
        with trio.CancelScope(shield=True):
            await listener.aclose()
            await datagram.aclose()
        raise
    return Arrival(stored, boot, directory, disk, listener, datagram, advertise, peers, notes, given)


async def _join(
    launch: Launch,
    disk: Disk,
    network: SystemNetwork,
    entropy: Entropy,
    clock: Clock,
    advertise: Callable[[Address], Address],
) -> tuple[tuple[KnownPeer, ...], Address]:
    """Be let into a cluster; returns the members learned on the way, and where this node says that it is."""
    check_cryptography(launch.config.cluster.identity)
    from frys_node.channel.bootstrap import join_cluster

    cluster = launch.config.cluster.name if launch.config.is_chosen("cluster.name") else None
    outcome = await join_cluster(
        network,
        disk,
        entropy,
        clock,
        seeds=[Address.parse(seed, DEFAULT_PORT) for seed in launch.seeds],
        token=await _token(launch, network, clock),
        name=launch.name,
        name_chosen=launch.name_chosen,
        expect_cluster=cluster,
        expect_kind=launch.config.cluster.identity if launch.config.is_chosen("cluster.identity") else None,
        advertise=advertise,
    )
    return outcome.peers, outcome.advertise


async def bind_both(network: SystemNetwork, address: Address) -> tuple[StreamListener, Datagram]:
    """Bind one port for TCP and UDP; port 0 tries a few."""
    for tries_left in range(BIND_TRIES, 0, -1):
        listener = await network.listen(address)
        try:
            return listener, await network.bind(Address(address.host, listener.address.port))
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await listener.aclose()
            if address.port or tries_left == 1 or not isinstance(error, AddressInUse):
                raise
    raise AssertionError


async def advertised(config: NodeConfig, bound: Address, network: Network) -> Address:
    """Return what other nodes are told: the setting, else the bound address, else the default route's.

    A name is resolved here, once: gossip is sent to addresses, and a member under a name could not be probed.

    Raises:
        ConfigError: The name has no address.
    """
    if not config.network.advertise:
        is_wild, is_ipv6 = bound.host in WILDCARDS, ":" in bound.host
        return Address(default_route_host(is_ipv6_bound=is_ipv6) if is_wild else bound.host, bound.port)
    given = Address.parse(config.network.advertise, 0)
    if sockaddr(given, family_of(given.host)) is not None:
        return Address(given.host, given.port or bound.port)
    found = sorted(await network.resolve(given.host), key=lambda host: family_of(host) != family_of(bound.host))
    if not found:
        raise ConfigError(
            f"network.advertise: the name '{given.host}' has no address", hint="advertise an address, or mend the name"
        )
    return Address(found[0], given.port or bound.port)


def advertised_to(config: NodeConfig, bound: Address, default: Address, issuer: Address) -> Address:
    """Return what other nodes are told by one that is bound to every address and was not told what to say.

    It is where the issuer reaches it, as the others do: the default route's address may be of a family that a cluster
    on the other one cannot send to, or of a network that they are not in.
    """
    if config.network.advertise or bound.host not in WILDCARDS:
        return default
    return Address(host_towards(issuer, default=default.host, is_ipv6_bound=":" in bound.host), bound.port)


async def _token(launch: Launch, network: SystemNetwork, clock: Clock) -> str:
    """Find a join token; which of this user's own nodes may lend one depends on the seed's authority."""
    from frys_node.channel.bootstrap import probe_cluster
    from frys_node.secure.local import find_token

    ca_hash = None
    if launch.token_file is None and not os.environ.get("FRYS_TOKEN"):
        for seed in launch.seeds:
            try:
                ca_hash = (await probe_cluster(network, Address.parse(seed, DEFAULT_PORT), clock)).ca_hash
                break
            except FrysError:
                if seed == launch.seeds[-1]:
                    raise
    found = find_token(
        token_file=launch.token_file,
        environment=os.environ,
        home=Path.home(),
        ca_hash=ca_hash,
        read_stdin=lambda: launch.token_text,
    )
    # A log line or an error that would carry it, of ours or of a library, shows a placeholder instead.
    register_secret(found.text)
    return found.text


def _rename(directory: Path, disk: DirectoryDisk, name: str) -> tuple[Path, DirectoryDisk]:
    """Give a directory made under a temporary name its own, now that the issuer has settled it."""
    final = directory.with_name(name)
    if final.exists():
        raise UsageError(
            f"{final} exists and belongs to something else", hint="move it away, or choose another with --data-dir"
        )
    disk.close()
    directory.rename(final)
    renamed = DirectoryDisk(final)
    renamed.lock()
    return final, renamed


def check_has_not_left(disk: Disk, directory: Path, stored: StoredIdentity) -> None:
    """Refuse to bring a node back that has left for good: its units and perhaps its name are others' now.

    Raises:
        NodeHasLeft: It has.
    """
    left = disk.read(LEFT_PATH)
    if left is not None:
        what = "was removed from" if left == REMOVED else "has left"
        raise NodeHasLeft(
            f"node '{stored.node_name}' {what} cluster '{stored.cluster_name}' for good",
            hint=f"move {directory} away (snapshots that were saved are in it), then join as a new node",
        )


async def check_seeds(
    seeds: Sequence[str], directory: Path, stored: StoredIdentity, network: Network, clock: Clock
) -> None:
    """Refuse a `join` to another cluster than the directory's. Seeds that are silent do not hold up a restart.

    Raises:
        UsageError: Every seed that answered is of another cluster.
    """
    from frys_node.channel.bootstrap import ClusterSummary, probe_cluster

    answers: dict[str, ClusterSummary] = {}

    async def ask(seed: str, scope: trio.CancelScope) -> None:
        with suppress(FrysError):
            answers[seed] = await probe_cluster(network, Address.parse(seed, DEFAULT_PORT), clock)
            if answers[seed].cluster_id == stored.cluster_id:
                scope.cancel()

    with trio.move_on_after(CHECK_SEEDS_S) as scope:
        async with trio.open_nursery() as nursery:
            for seed in seeds:
                nursery.start_soon(ask, seed, scope)
    if answers and all(found.cluster_id != stored.cluster_id for found in answers.values()):
        seed, found = next(iter(answers.items()))
        raise UsageError(
            f"{directory} is node '{stored.node_name}' of cluster '{stored.cluster_name}', and {seed} belongs "
            f"to another cluster, '{found.cluster_name}'",
            hint="join with another --data-dir, or move this one away; `frys-node start` goes back to its own",
        )


def check_settings(launch: Launch, stored: StoredIdentity) -> None:
    """Refuse settings that contradict what this directory is; they would otherwise be silently without effect."""
    if launch.name_chosen and launch.name != stored.node_name:
        raise UsageError(
            f"this data directory is node '{stored.node_name}', not '{launch.name}'",
            hint="leave --name out, or use another --data-dir",
        )
    if launch.config.is_chosen("cluster.name") and launch.config.cluster.name != stored.cluster_name:
        raise UsageError(
            f"this data directory belongs to cluster '{stored.cluster_name}', not '{launch.config.cluster.name}'",
            hint="leave the cluster's name out, or use another --data-dir",
        )
    if launch.config.is_chosen("cluster.identity") and launch.config.cluster.identity != stored.kind:
        raise UsageError(
            f"the identities of cluster '{stored.cluster_name}' are of kind {stored.kind} for good, not "
            f"{launch.config.cluster.identity}",
            hint="leave [cluster] identity (--identity) out; another kind needs another cluster",
        )


def keep_addresses(disk: Disk, config: NodeConfig) -> None:
    """Write down the addresses that were chosen: a later start without them must not move the node."""
    data = msgspec.json.format(msgspec.json.encode(config.to_keep()), indent=2) + b"\n"
    if disk.read(KEPT_PATH) != data and config.to_keep():
        disk.write(KEPT_PATH, data)


def read_kept(data_dir: Path | None) -> dict[str, str]:
    """Return the addresses that an earlier start of this directory was given.

    Raises:
        CorruptData: The file is damaged. Nothing was changed.
    """
    path = data_dir / KEPT_PATH if data_dir is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CorruptData(
            f"{path} cannot be read: {error}", hint="remove it, and give --bind, --advertise and --http again"
        ) from error


def given_to(config: NodeConfig) -> dict[str, str]:
    """Return where each setting of this start comes from that no later start keeps by itself.

    Addresses are kept, and no others: a file of workflows that is served, or a port that clients use, is served again
    only when it is given again. Values may be secret, and are left out.
    """
    return {
        key: config.origins[key].encode(errors="backslashreplace").decode()
        for key in config.chosen()
        if key not in OWN_KEYS and key not in KEPT
    }


def note_on_given(disk: Disk, given: Mapping[str, str]) -> list[str]:
    """Return a note on what the last start was given and this one is not, if there is something."""
    text = disk.read(GIVEN_PATH)
    try:
        before = msgspec.json.decode(text, type=dict[str, str]) if text else {}
    except (msgspec.MsgspecError, ValueError):
        before = {}  # it is for this note alone, and written anew
    missing = [f"{key} ({origin})" for key, origin in sorted(before.items()) if key not in given]
    if not missing:
        return []
    shown, more = ", ".join(missing[:KEYS_SHOWN_MAX]), len(missing) - KEYS_SHOWN_MAX
    return [f"given to the last start and not to this one: {shown}" + (f" and {more} more" if more > 0 else "")]


def read_text(disk: Disk, path: str) -> str:
    """Return a small text file of the data directory, empty if there is none."""
    return (disk.read(path) or b"").decode("utf-8", "replace").strip()
