"""``frys-join/1``, both sides of one connection. The caller bounds each with `JOIN_S`, but for `ask_home`."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple, Self

import trio
from cryptography import x509

from frys_node.base.errors import (
    FrysError,
    MalformedFrame,
    NodeUnreachable,
    SecurityError,
    UnsupportedVersion,
    error_from_code,
)
from frys_node.base.ports import Clock, Network
from frys_node.base.types import Address, ClusterId, NodeId
from frys_node.channel.messages import KIND_JOIN
from frys_node.secure import certificates
from frys_node.secure.errors import ForeignCluster, HandshakeRefused, NoAuthority, TokenUnknown, TrustLost
from frys_node.secure.gate import check_profile
from frys_node.secure.identity import Identity
from frys_node.secure.signer import is_return_proof, return_proof
from frys_node.secure.signing_keys import Kind, PrivateKey, kind_of
from frys_node.secure.tls import ALPN_JOIN, EXPORTER_JOIN, EXPORTER_RETURN, TlsStream, connect_tls, join_context
from frys_node.secure.token import JoinToken, proof, proofs_match
from frys_node.secure.trust import MISSED_MAX, links_behind, reaches
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.issuer import wrong_cluster
from frys_node.trust.join_messages import (
    HOME_BYTES_MAX,
    JOIN_BYTES_MAX,
    JOIN_CODEC,
    JOIN_S,
    ClusterInfo,
    InfoRequest,
    JoinAccepted,
    JoinMessage,
    JoinRedirect,
    JoinRefused,
    JoinRequest,
    PeerAddress,
    Returned,
    ReturnRequest,
)
from frys_node.trust.trust_keeper import HomeAnswer
from frys_node.wire.frame import FrameReader, encode_frame
from frys_node.wire.version import PROTOCOL_MAX, PROTOCOL_MIN, negotiate


class _JoinPipe:
    """Join messages over a TLS stream, bounded in bytes that come, the handshake included."""

    __slots__ = ("_limit", "_reader", "_received", "stream")

    def __init__(self, stream: TlsStream, limit: int = JOIN_BYTES_MAX) -> None:
        """`limit` bounds what the other side may send."""
        self.stream = stream
        self._limit = limit
        self._reader = FrameReader(limit)
        self._received = stream.handshake_bytes

    async def send(self, message: JoinMessage) -> None:
        await self.stream.send_all(encode_frame(KIND_JOIN, JOIN_CODEC.encode(message), HOME_BYTES_MAX))

    async def receive(self) -> JoinMessage | None:
        """Return the next message, None at the orderly end."""
        data = b""
        while not (frames := self._reader.receive_data(data, at_most=1)):
            data = await self.stream.receive_some()
            if not data:
                return None
            self._received += len(data)
            if self._received > self._limit:
                raise MalformedFrame(f"more than {self._limit} bytes in one join")
        frame = frames[0]
        if frame.kind != KIND_JOIN:
            raise MalformedFrame(f"a frame of kind {frame.kind} on a join connection")
        return JOIN_CODEC.decode(frame.body)


class JoinServer:
    """Answers joins: the issuer's desk admits, every other node redirects."""

    def __init__(
        self,
        identity: Identity,
        authority: AuthorityHolder,
        *,
        issuer_address: Callable[[], Address | None],
        peers: Callable[[], tuple[PeerAddress, ...]],
        revoked: Container[NodeId] = (),
    ) -> None:
        self._identity = identity
        self._revoked = revoked
        self._authority = authority
        self._issuer_address = issuer_address
        self._peers = peers

    async def serve(self, stream: TlsStream, source: Address) -> str:
        """Serve one connection to its end and return the code of what became of it: ``joined``, ``asked``, an error's.

        Each kind of message is answered once: an answer is far larger than what asks for it, and dearer. How many
        connections an address may make is limited at the door, and with it how many answers it gets.

        Raises:
            HandshakeRefused: Reason ``join_repeated``: a kind of message came again. It was not answered.
            WireError, trio.BrokenResourceError: The other side broke the protocol or the connection.
        """
        check_profile(stream.connection, ALPN_JOIN)
        pipe = _JoinPipe(stream)
        outcome = "asked"
        answered: set[type[JoinMessage]] = set()
        while (message := await pipe.receive()) is not None:
            if type(message) in answered:
                text = f"a join connection may send one {type(message).__name__}, and this one sent another"
                raise HandshakeRefused("join_repeated", text)
            answered.add(type(message))
            if isinstance(message, InfoRequest):
                refusal = self._version_refusal(message)
                if refusal is not None:
                    outcome = refusal.code
                await pipe.send(refusal or self._info(message.trusted))
            elif isinstance(message, JoinRequest):
                answer, outcome = self._answer(message, stream, source)
                await pipe.send(answer)
            elif isinstance(message, ReturnRequest):
                answer, outcome = self._bring_home(message, stream)
                await pipe.send(answer)
            else:
                raise MalformedFrame("a message that only a seed may send")
        return outcome

    def _version_refusal(self, request: InfoRequest) -> JoinRefused | None:
        """Refuse a joiner whose protocol this node does not speak; it may not check by itself."""
        me = f"seed '{self._identity.node_name}' of cluster '{self._identity.cluster_name}'"
        try:
            negotiate(request.protocol_min, request.protocol_max, me=me, peer="the joiner")
        except UnsupportedVersion as error:
            return JoinRefused(error.code, error.message, error.hint)
        return None

    def _info(self, trusted: tuple[str, ...]) -> ClusterInfo:
        identity = self._identity
        address = self._issuer_address()
        return ClusterInfo(
            PROTOCOL_MIN,
            PROTOCOL_MAX,
            identity.cluster_id,
            identity.cluster_name,
            certificates.der(identity.ca_certificate),
            identity.node_id,
            identity.node_name,
            self._authority.desk is not None,
            "" if address is None else str(address),
            tuple(map(certificates.der, links_behind(identity.links, trusted))),
        )

    def _bring_home(self, request: ReturnRequest, stream: TlsStream) -> tuple[JoinMessage, str]:
        desk, identity = self._authority.desk, self._identity
        if desk is None:
            address = self._issuer_address()
            return JoinRedirect("" if address is None else str(address)), "redirect"
        try:
            key = certificates.read_request(request.signing_request, identity.kind)
            if not is_return_proof(key, request.proof, stream.export(EXPORTER_RETURN)):
                raise HandshakeRefused("return", "the node's key was not proved")
            certificate = desk.readmit(certificates.load_der(request.certificate), key, revoked=self._revoked)
        except FrysError as error:
            return JoinRefused(error.code, error.message, error.hint), error.code
        parts = (identity.also_trusted, identity.links, identity.retired)
        lists = (tuple(map(certificates.der, part)) for part in parts)
        return Returned(certificates.der(certificate), *lists), "returned"

    def _answer(self, request: JoinRequest, stream: TlsStream, source: Address) -> tuple[JoinMessage, str]:
        desk = self._authority.desk
        if desk is None and self._authority.is_issuer:
            text = "no node can join: the issuer does not hold the key of the cluster's authority"
            return JoinRefused(NoAuthority.code, text, NoAuthority.FIX), "authority"
        if desk is None:
            address = self._issuer_address()
            if address is None:
                text = "this node does not know where the issuer is"
                return JoinRefused("node.not_ready", text, "give the issuer's address as --seed"), "redirect"
            return JoinRedirect(str(address)), "redirect"
        try:
            accepted = desk.admit(request, stream.export(EXPORTER_JOIN), source=source, peers=self._peers())
        except FrysError as error:
            return JoinRefused(error.code, error.message, error.hint), error.code
        return accepted, "joined"


class Seed(NamedTuple):
    """A seed's cluster, checked against the certificate that its handshake proved."""

    info: ClusterInfo
    ca: x509.Certificate

    @property
    def kind(self) -> Kind:
        """Kind of the cluster's keys, a joiner's too."""
        return kind_of(self.ca.public_key())


class JoinClient:
    """The joiner's side of one connection; use it as ``async with``."""

    def __init__(self, pipe: _JoinPipe, clock: Clock) -> None:
        self._pipe = pipe
        self._clock = clock

    @classmethod
    async def open(cls, network: Network, address: Address, clock: Clock) -> JoinClient:
        """Connect and shake hands.

        Raises:
            NodeUnreachable: Nobody answers there.
            NotTls, ClassicalOnly, HandshakeRefused: Somebody does, but no frys node of this profile.
        """
        transport = await network.connect(address)
        try:
            stream = await connect_tls(transport, join_context())
            check_profile(stream.connection, ALPN_JOIN)
        except BaseException:
            with trio.CancelScope(shield=True):
                await transport.aclose()
            raise
        return cls(_JoinPipe(stream, HOME_BYTES_MAX), clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with trio.CancelScope(shield=True):
            await self._pipe.stream.aclose()

    async def ask(self, message: JoinMessage) -> JoinMessage:
        """Send one message and return the answer; a refusal is raised as the error that it names."""
        try:
            await self._pipe.send(message)
            answer = await self._pipe.receive()
        except trio.BrokenResourceError as error:
            raise HandshakeRefused("reset", "the seed broke the connection") from error
        if answer is None:
            raise HandshakeRefused("eof", "the seed ended the connection without an answer")
        if isinstance(answer, JoinRefused):
            raise error_from_code(answer.code, answer.message, answer.hint)
        return answer

    async def info(self, trusted: tuple[str, ...] = ()) -> Seed:
        """Ask which cluster this is, and check that the seed's certificate is of that cluster's authority.

        A member that was away says which authorities it trusts, to be told how others have followed them.

        Raises:
            ForeignCluster: The certificate of the handshake is not of the authority that the seed names.
            UnsupportedVersion: The protocol versions do not meet.
        """
        answer = await self.ask(InfoRequest(PROTOCOL_MIN, PROTOCOL_MAX, trusted))
        if not isinstance(answer, ClusterInfo):
            raise MalformedFrame("the seed answered a question that was not asked")
        peer = f"seed '{answer.node_name}' of cluster '{answer.cluster_name}'"
        negotiate(answer.protocol_min, answer.protocol_max, peer=peer)
        ca = certificates.load_der(answer.ca_certificate)
        shown = self._pipe.stream.connection.get_peer_certificate(as_cryptography=True)
        if shown is None:
            raise ForeignCluster("the seed showed no certificate")
        subject = certificates.verify_issued(shown, ca, self._clock.unix_ns())
        if (subject.cluster, subject.node) != (answer.cluster_id, answer.node_id):
            raise ForeignCluster("the seed's certificate does not name what the seed says it is")
        return Seed(answer, ca)

    async def join(
        self,
        seed: Seed,
        token: JoinToken,
        key: PrivateKey,
        *,
        name: str,
        is_name_chosen: bool,
        advertise: Address,
        expect_cluster: str | None,
    ) -> JoinAccepted | JoinRedirect:
        """Prove the token and return what the issuer granted, checked against the seed; or where to ask instead.

        Raises:
            ForeignCluster: The authority is not the one that the token pins. The proof was not sent.
            WrongCluster: It is not the cluster asked for. The proof was not sent.
            TokenUnknown: The issuer could not prove that it knows the token.
            FrysError: Why the issuer refused.
        """
        if expect_cluster and expect_cluster not in (seed.info.cluster_name, seed.info.cluster_id):
            raise wrong_cluster(seed.info.cluster_name, expect_cluster)
        if token.ca_hash is not None and certificates.spki_hash(seed.ca) != token.ca_hash:
            raise ForeignCluster(
                f"the token is for cluster '{token.cluster}' with another authority than the seed's"
                f" (cluster '{seed.info.cluster_name}')",
                hint="give a seed of the token's cluster, or a token made by the seed's issuer",
            )
        if not seed.info.is_issuer and seed.info.issuer_address:
            return JoinRedirect(seed.info.issuer_address)
        exporter = self._pipe.stream.export(EXPORTER_JOIN)
        answer = await self.ask(
            JoinRequest(
                token.id,
                proof(token.key, b"c", exporter),
                certificates.create_request(key),
                name,
                is_name_chosen,
                str(advertise),
                expect_cluster or "",
            )
        )
        if isinstance(answer, JoinRedirect):
            return answer
        if not isinstance(answer, JoinAccepted):
            raise MalformedFrame("the seed answered a question that was not asked")
        if not proofs_match(answer.proof, proof(token.key, b"s", exporter)):
            raise TokenUnknown("the seed could not prove that it knows the join token", hint="check the seed's address")
        self._check_granted(answer, seed, key)
        return answer

    async def come_home(self, seed: Seed, identity: Identity) -> Returned | JoinRedirect:
        """Prove this node's key and return its new certificate, checked; or where to ask instead.

        Raises:
            ForeignCluster: The seed is of another cluster. Nothing was proved to it.
            TrustLost: The seed's authority does not follow one that this node trusts. Nothing was proved to it.
            FrysError: Why the issuer refused.
        """
        if seed.info.cluster_id != identity.cluster_id:
            raise ForeignCluster("the seed belongs to another cluster: its authority does not follow this node's")
        links = tuple(map(certificates.load_der, seed.info.links))
        if not reaches(seed.ca, links, identity.authorities, identity.cluster_id):
            raise TrustLost(
                "the seed's authority does not follow one that this node trusts: it was away for more than"
                f" {MISSED_MAX} changes, or something else answers there",
                hint=TrustLost.FIX,
            )
        if not seed.info.is_issuer:
            return JoinRedirect(seed.info.issuer_address)
        exporter = self._pipe.stream.export(EXPORTER_RETURN)
        answer = await self.ask(
            ReturnRequest(
                certificates.der(identity.certificate),
                certificates.create_request(identity.key),
                return_proof(identity.key, exporter),
            )
        )
        if isinstance(answer, JoinRedirect):
            return answer
        if not isinstance(answer, Returned):
            raise MalformedFrame("the seed answered a question that was not asked")
        certificate = certificates.load_der(answer.certificate)
        subject = certificates.verify_issued(certificate, seed.ca, self._clock.unix_ns())
        if subject.node != identity.node_id or certificate.public_key() != identity.key.public_key():
            raise SecurityError("the issuer sent another node's certificate", hint="check the seed")
        return answer

    def _check_granted(self, answer: JoinAccepted, seed: Seed, key: PrivateKey) -> None:
        certificate = certificates.load_der(answer.certificate)
        subject = certificates.verify_issued(certificate, seed.ca, self._clock.unix_ns())
        is_mine = certificate.public_key() == key.public_key()
        wanted = certificates.Subject(ClusterId(answer.cluster_id), NodeId(subject.node), answer.name)
        if not is_mine or subject != wanted or answer.ca_certificate != seed.info.ca_certificate:
            raise SecurityError("the issuer granted a certificate that is not this node's", hint="check the seed")


async def ask_home(network: Network, clock: Clock, identity: Identity, address: Address) -> HomeAnswer:
    """Ask who answers at the address to have this node back; returns the answer, and the authority that it showed.

    Raises:
        NodeUnreachable: It did not answer within `JOIN_S`.
        FrysError: It cannot be reached, or refused.
    """
    with trio.move_on_after(JOIN_S):
        async with await JoinClient.open(network, address, clock) as client:
            seed = await client.info(tuple(map(certificates.spki_hash, identity.authorities)))
            return await client.come_home(seed, identity), seed.ca
    raise NodeUnreachable(f"{address} did not answer within {JOIN_S:.0f} s")
