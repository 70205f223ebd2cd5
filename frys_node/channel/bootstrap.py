"""How a node gets its identity: by creating a cluster, or by joining one.

Nothing is written before everything is known: the identity's file comes last, in one atomic write.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from frys_node.base.errors import (
    ConfigError,
    FrysError,
    IssuerUnreachable,
    NodeUnreachable,
    SecurityError,
    UnsupportedVersion,
)
from frys_node.base.ports import Clock, Disk, Entropy, Network
from frys_node.base.types import Address, ClusterId, NodeId
from frys_node.channel.join import JoinClient, Seed
from frys_node.secure import certificates
from frys_node.secure.admin import create_admin_token
from frys_node.secure.errors import NoAuthority, WrongIdentityKind
from frys_node.secure.identity import Identity, load_identity, save_identity
from frys_node.secure.keyring import KEY_BYTES, KEYRING_PATH, EpochKey, Keyring
from frys_node.secure.signing_keys import SEED_BYTES, Kind, PrivateKey, key_from_seed, new_key
from frys_node.secure.statements import Statements
from frys_node.secure.stored import ED25519
from frys_node.secure.token import JoinToken, parse_token
from frys_node.trust.join_messages import JOIN_S, JoinAccepted, JoinRedirect

log = logging.getLogger(__name__)

STAGGER_S = 0.1
"""How long one seed may keep the next waiting."""

SEEDS_MAX = 32

_CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?")

__all__ = [
    "ClusterSummary",
    "JoinOutcome",
    "KnownPeer",
    "SeedsUnreachable",
    "create_cluster",
    "join_cluster",
    "load_identity",
    "probe_cluster",
]


class SeedsUnreachable(NodeUnreachable):
    """No seed answered. Nothing was written."""

    code = "channel.seeds_unreachable"


class ClusterSummary(NamedTuple):
    """What a seed says of its cluster; the certificate behind it was checked, the cluster itself was not."""

    cluster_id: ClusterId
    cluster_name: str
    ca_hash: str
    node_id: NodeId
    node_name: str
    is_issuer: bool


class KnownPeer(NamedTuple):
    """A member learned at the join."""

    node: NodeId
    address: Address
    name: str


Advertise = Address | Callable[[Address], Address]
"""Where other nodes will reach the joiner; or how to tell, given the issuer's address."""


class JoinOutcome(NamedTuple):
    """A join that succeeded."""

    identity: Identity
    peers: tuple[KnownPeer, ...]
    issuer: NodeId
    advertise: Address
    """What the issuer was told."""


def create_cluster(
    disk: Disk, entropy: Entropy, clock: Clock, *, cluster_name: str, node_name: str, kind: Kind = ED25519
) -> Identity:
    """Make a new cluster with this node as its issuer and first member, and store it.

    `kind` is that of all its keys, for good. Writes the keyring (epoch 1), ``admin-token`` and, last, the identity.

    Raises:
        ConfigError: The cluster's name is not 1-48 lower-case letters, digits or dashes. Nothing was written.
        InvalidCertificate: The node's name is not usable. Nothing was written.
        StorageError: The disk refused; the directory holds no identity.
    """
    if _CLUSTER_NAME.fullmatch(cluster_name) is None:
        raise ConfigError(f"'{cluster_name}' cannot be a cluster's name", hint="use 1-48 letters a-z, digits or dashes")
    certificates.valid_name(node_name)
    cluster = ClusterId(entropy.token_bytes(16).hex())
    ca_key, key = new_key(entropy, kind), new_key(entropy, kind)
    now = clock.unix_ns()
    ca = certificates.create_authority(ca_key, cluster, cluster_name, now)
    node = certificates.node_id_of(key.public_key())
    subject = certificates.Subject(cluster, node, node_name)
    identity = Identity(
        cluster_id=cluster,
        cluster_name=cluster_name,
        node_name=node_name,
        issuer=node,
        key=key,
        certificate=certificates.issue(ca_key, ca, key.public_key(), subject=subject, unix_ns=now),
        ca_certificate=ca,
        ca_key=ca_key,
    )
    first = EpochKey(1, entropy.token_bytes(KEY_BYTES), made_unix_s=now // 1_000_000_000)
    keyring = Keyring((Statements(identity).sign_key(first),))
    disk.write(KEYRING_PATH, keyring.encode())
    create_admin_token(disk, entropy)
    save_identity(disk, identity)
    return identity


async def probe_cluster(network: Network, seed: Address, clock: Clock) -> ClusterSummary:
    """Ask a seed which cluster it belongs to, within `JOIN_S`.

    Raises:
        NodeUnreachable: Nobody answers there.
        SecurityError: Somebody does, but no frys node.
    """
    with trio.move_on_after(JOIN_S) as scope:
        async with await JoinClient.open(network, seed, clock) as client:
            found = await client.info()
    if scope.cancelled_caught:
        raise _silent(seed)
    return _summary(found)


def _summary(seed: Seed) -> ClusterSummary:
    info = seed.info
    return ClusterSummary(
        ClusterId(info.cluster_id),
        info.cluster_name,
        certificates.spki_hash(seed.ca),
        NodeId(info.node_id),
        info.node_name,
        info.is_issuer,
    )


def _silent(seed: Address) -> NodeUnreachable:
    return NodeUnreachable(f"{seed} did not answer within {JOIN_S:.0f} s", hint="check the address and the firewall")


class _Joiner:
    """One join through several seeds with one seed of a key, so that a repeated grant is the same node again."""

    def __init__(
        self,
        network: Network,
        clock: Clock,
        *,
        token: JoinToken,
        key_seed: bytes,
        name: str,
        is_name_chosen: bool,
        expect_cluster: str | None,
        expect_kind: Kind | None,
        advertise: Advertise,
    ) -> None:
        self._network = network
        self._clock = clock
        self._token = token
        self._key_seed = key_seed
        self._expect_kind = expect_kind
        self._name = name
        self._is_name_chosen = is_name_chosen
        self._expect_cluster = expect_cluster
        self._advertise = advertise
        self.accepted: JoinAccepted | None = None
        self.key: PrivateKey | None = None
        """What was granted, and for which key."""
        self.advertised: Address | None = None
        self.errors: list[tuple[Address, FrysError]] = []

    async def ask_all(self, seeds: Sequence[Address]) -> None:
        """Ask the seeds, each `STAGGER_S` after the one before or at once when that failed, until one grants."""
        async with trio.open_nursery() as nursery:
            for seed in seeds:
                failed = trio.Event()
                nursery.start_soon(self._ask, seed, failed, nursery.cancel_scope)
                with trio.move_on_after(STAGGER_S):
                    await failed.wait()

    async def _ask(self, seed: Address, failed: trio.Event, scope: trio.CancelScope) -> None:
        try:
            answer, advertised, key = await self._ask_within(seed)
            if isinstance(answer, JoinRedirect):
                issuer = Address.parse(answer.address)
                log.info("channel.join_redirected", extra={"seed": str(seed), "issuer": str(issuer)})
                try:
                    answer, advertised, key = await self._ask_within(issuer)
                except NodeUnreachable as error:
                    raise IssuerUnreachable(
                        f"{seed} is a member of the cluster, but the issuer at {issuer} does not answer",
                        hint="only the issuer lets nodes in: start it, or open the way to its address, and join again",
                    ) from error
                if isinstance(answer, JoinRedirect):
                    if Address.parse(answer.address) == issuer:
                        raise NoAuthority(
                            f"no node can join: the issuer, {issuer}, does not hold the key of the cluster's authority",
                            hint=NoAuthority.FIX,
                        )
                    raise NodeUnreachable(
                        f"{issuer} is not the issuer either", hint="give the issuer's address as --seed"
                    )
        except FrysError as error:
            self.errors.append((seed, error))
            failed.set()
            return
        self.accepted, self.advertised, self.key = answer, advertised, key
        scope.cancel()

    async def _ask_within(self, address: Address) -> tuple[JoinAccepted | JoinRedirect, Address, PrivateKey]:
        answer: tuple[JoinAccepted | JoinRedirect, Address, PrivateKey] | None = None
        with trio.move_on_after(JOIN_S):
            async with await JoinClient.open(self._network, address, self._clock) as client:
                seed = await client.info()
                self._check_kind(seed)
                key = key_from_seed(self._key_seed, seed.kind)
                advertise = self._advertise
                if not isinstance(advertise, Address):
                    # Where the issuer says that it is, not where it was dialled: the others will say the same of it.
                    advertise = advertise(Address.parse(seed.info.issuer_address or str(address)))
                granted = await client.join(
                    seed,
                    self._token,
                    key,
                    name=self._name,
                    is_name_chosen=self._is_name_chosen,
                    advertise=advertise,
                    expect_cluster=self._expect_cluster,
                )
                answer = granted, advertise, key
        if answer is None:
            raise _silent(address)
        return answer

    def _check_kind(self, seed: Seed) -> None:
        if self._expect_kind not in (None, seed.kind):
            raise WrongIdentityKind(
                f"cluster '{seed.info.cluster_name}' has identities of kind {seed.kind}, not {self._expect_kind}",
                hint="leave [cluster] identity (--identity) out: a joiner takes the cluster's",
            )

    def failure(self) -> FrysError:
        """The error that tells the user most: a refusal before silence; with several, each seed is named."""
        refusals = [error for _, error in self.errors if isinstance(error, (SecurityError, UnsupportedVersion))]
        if refusals:
            return refusals[0]
        if len(self.errors) == 1:
            return self.errors[0][1]
        text = "; ".join(f"{seed}: {error.message}" for seed, error in self.errors)
        return SeedsUnreachable(f"no seed answered: {text}", hint="check the addresses; one of the seeds must be up")


async def join_cluster(
    network: Network,
    disk: Disk,
    entropy: Entropy,
    clock: Clock,
    *,
    seeds: Sequence[Address],
    token: str,
    name: str,
    name_chosen: bool,
    expect_cluster: str | None,
    advertise: Advertise,
    expect_kind: Kind | None = None,
) -> JoinOutcome:
    """Join a cluster through any of the seeds and store the identity, only when everything was granted.

    Args:
        network: Port to dial with.
        disk: Port rooted in the new node's data directory.
        entropy: Port for the node's key.
        clock: Port for the life of certificates.
        seeds: Members to ask, the issuer or not.
        token: Text of a join token.
        name: The node's name; the issuer appends ``-2``... if it is taken and was not chosen by the user.
        name_chosen: True if the user chose it.
        expect_cluster: Name or id of the cluster that it must be, None for any.
        advertise: Where other nodes will reach this one, or how to tell given the issuer's address.
        expect_kind: Kind of identities that the cluster must have, None for any; the key is made of the cluster's.

    Raises:
        InvalidToken, TokenUnknown, TokenExpired, TokenUsedUp, ForeignCluster, WrongCluster, WrongIdentityKind,
        NameTaken, NotTls, ClassicalOnly, TooManyFailures, SeedsUnreachable, NodeUnreachable: See there. Nothing was
        written.
    """
    read = parse_token(token)
    certificates.valid_name(name)
    if not seeds:
        raise ConfigError("a join needs a seed", hint="--seed host:port")
    joiner = _Joiner(
        network,
        clock,
        token=read,
        key_seed=entropy.token_bytes(SEED_BYTES),
        name=name,
        is_name_chosen=name_chosen,
        expect_cluster=expect_cluster,
        expect_kind=expect_kind,
        advertise=advertise,
    )
    await joiner.ask_all(list(dict.fromkeys(seeds))[:SEEDS_MAX])
    accepted, advertised, key = joiner.accepted, joiner.advertised, joiner.key
    if accepted is None or advertised is None or key is None:
        raise joiner.failure()
    peers = tuple(KnownPeer(NodeId(peer.node_id), Address.parse(peer.address), peer.name) for peer in accepted.peers)
    identity = Identity(
        cluster_id=ClusterId(accepted.cluster_id),
        cluster_name=accepted.cluster_name,
        node_name=accepted.name,
        issuer=NodeId(accepted.issuer),
        key=key,
        certificate=certificates.load_der(accepted.certificate),
        ca_certificate=certificates.load_der(accepted.ca_certificate),
        seeds=tuple(peer.address for peer in peers),
        also_trusted=tuple(map(certificates.load_der, accepted.also_trusted)),
        retired=tuple(map(certificates.load_der, accepted.retired)),
    )
    save_identity(disk, identity)
    return JoinOutcome(identity, peers, NodeId(accepted.issuer), advertised)
