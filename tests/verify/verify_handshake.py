"""Both handshakes under one flipped bit: each byte of each flight, through frys's contexts, its gate and its checks.

Four flights: the ClientHello, the server's answer up to its Finished, the client's certificate and Finished, and two
session tickets that nobody can use (the server keeps no sessions, and there is no call to leave them away). A mutant
is accepted if both ends finish, both gates let the other in, and a message arrives in each direction. TLS 1.3 tells
receivers to ignore one field, `legacy_record_version` of a first record (RFC 8446, 5.1), and only its second byte is
ignored by OpenSSL; whatever else gets through is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from OpenSSL import SSL
from verify_tally import Tally

from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.errors import HandshakeRefused
from frys_node.secure.gate import check_peer, check_profile
from frys_node.secure.identity import Identity
from frys_node.secure.signing_keys import Kind
from frys_node.secure.stored import ED25519, ML_DSA_65
from frys_node.secure.tls import ALPN_JOIN, HandshakeNotes, TlsProfile, join_context
from frys_node.testing.disk import FakeDisk
from frys_node.testing.identities import issue_member
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy

CLOCK, ENTROPY = SystemClock(), SystemEntropy()
FLIGHTS: Final = ("client hello", "server flight", "client finish", "server tickets")
READ_BYTES = 65_536
WHOLE_BYTES = 16
"""So many bytes of each flight are tried with each of their bits: headers and versions are there."""

ML_DSA_STEP_BYTES = 31
"""Handshakes with ML-DSA-65 have 19,000 bytes, and cost twice as much: every so manieth byte of them is tried."""

RECORD_BYTES = 200
RESUMPTIONS = 10
CUT_STEP_BYTES = 13
"""A flight is cut off at every so manieth byte."""

LEGACY_VERSION = "byte 2 of a side's first record, legacy_record_version, which TLS 1.3 says to ignore"
ACCEPTED: Final = frozenset((flight, 2, bit) for flight in FLIGHTS[:2] for bit in range(8))


class Pair(NamedTuple):
    """Two members of one cluster: the first created it."""

    issuer: Identity
    member: Identity


def make_pair(kind: Kind = ED25519) -> Pair:
    """Create a cluster and a second member, through the code that nodes use."""
    issuer = create_cluster(FakeDisk(), ENTROPY, CLOCK, cluster_name="verify", node_name="a", kind=kind)
    return Pair(issuer, member_of(issuer, "b"))


def member_of(issuer: Identity, name: str) -> Identity:
    """Issue a certificate to a new member."""
    return issue_member(issuer, name, ENTROPY, CLOCK)


class End:
    """One end of a handshake over memory."""

    __slots__ = ("connection", "is_done")

    def __init__(self, context: SSL.Context, *, server: bool) -> None:
        self.connection = SSL.Connection(context, None)
        self.connection.set_app_data(HandshakeNotes())
        if server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
        self.is_done = False

    def step(self, data: bytes) -> bytes:
        """Take bytes of the other end and return the answer; a refusal is an `SSL.Error`."""
        if data:
            self.connection.bio_write(data)
        if not self.is_done:
            try:
                self.connection.do_handshake()
                self.is_done = True
            except SSL.WantReadError:
                self.is_done = False
        elif data:
            self._drain()
        try:
            return self.connection.bio_read(READ_BYTES)
        except SSL.WantReadError:
            return b""

    def _drain(self) -> None:
        """Have OpenSSL read what came after the handshake; there is no message in it."""
        try:
            self.connection.recv(READ_BYTES)
        except SSL.WantReadError:
            return


class Handshake:
    """One protocol between two ends: how they are made, and what each checks when it is done."""

    def __init__(self, name: str, pair: Pair) -> None:
        self.name = name
        self._pair = pair
        self._server = TlsProfile(pair.issuer).server
        self._client = TlsProfile(pair.member).client if name == "frys/1" else join_context()

    def ends(self) -> tuple[End, End]:
        """Return a fresh client and a fresh server."""
        return End(self._client, server=False), End(self._server, server=True)

    def flights(self) -> list[bytes]:
        """Return the flights of one good handshake."""
        seen: list[bytes] = []
        assert self.is_accepted(-1, seen.append)
        return seen

    def is_accepted(self, flight: int, change: Callable[[bytes], object]) -> bool:
        """Shake hands with one flight changed, or with each one shown if it is -1; True if nobody minds."""
        client, server = self.ends()
        data = b""
        try:
            for number in range(len(FLIGHTS)):
                data = (server if number % 2 else client).step(data)
                if flight == -1:
                    change(data)
                elif number == flight:
                    changed = change(data)
                    assert isinstance(changed, bytes)
                    data = changed
            client.step(data)
            if not (client.is_done and server.is_done):
                return False
            self._check(client.connection, server.connection)
            return _talks(client.connection, server.connection) and _talks(server.connection, client.connection)
        except (SSL.Error, HandshakeRefused):
            return False

    def _check(self, client: SSL.Connection, server: SSL.Connection) -> None:
        if self.name == "frys/1":
            now_ns = CLOCK.unix_ns()
            check_peer(client, self._pair.member, unix_ns=now_ns, expected=self._pair.issuer.node_id)
            check_peer(server, self._pair.issuer, unix_ns=now_ns, expected=self._pair.member.node_id)
        else:
            check_profile(client, ALPN_JOIN)
            check_profile(server, ALPN_JOIN)


def _talks(sender: SSL.Connection, receiver: SSL.Connection) -> bool:
    """True if a message of one end arrives at the other."""
    sender.send(b"hello")
    receiver.bio_write(sender.bio_read(READ_BYTES))
    return receiver.recv(READ_BYTES) == b"hello"


def flipped(data: bytes, at: int, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def _bits(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Every byte, or every so manieth, with one of its bits, and the first ones with all."""
    for at in (*range(WHOLE_BYTES), *range(WHOLE_BYTES, size, step)):
        for bit in range(8) if at < WHOLE_BYTES else (at * 5 % 8,):
            yield at, bit


def mutate_handshake(name: str, pair: Pair, step: int = 1) -> list[Tally]:
    """Flip bits in every flight, cut every flight short, and add to it."""
    shake = Handshake(name, pair)
    flights = shake.flights()
    about = f"{name} {pair.issuer.kind if step > 1 else 'handshake'}"
    bits, cuts = Tally(f"{about}, one bit", "mutants"), Tally(f"{about}, cut or longer", "mutants")
    accepted = set()
    for number, (flight, what) in enumerate(zip(flights, FLIGHTS, strict=True)):
        for at, bit in _bits(len(flight), step):
            bits.tried += 1
            if shake.is_accepted(number, lambda data, at=at, bit=bit: flipped(data, at, bit)):  # type: ignore[misc]
                accepted.add((what, at, bit))
        for size in range(0, len(flight), CUT_STEP_BYTES * step):
            is_accepted = shake.is_accepted(number, lambda data, size=size: data[:size])  # type: ignore[misc]
            cuts.check(not is_accepted, f"{what} of {size} of {len(flight)} bytes is accepted")
        for more in (b"\x00", b"\x17\x03\x03\x00\x01\x00", flight[:64]):
            is_accepted = shake.is_accepted(number, lambda data, more=more: data + more)  # type: ignore[misc]
            cuts.check(not is_accepted, f"{what} with {more[:8].hex()} behind it is accepted")
    bits.settle("mutant", accepted, ACCEPTED, LEGACY_VERSION)
    bits.notes.append(f"flights of {', '.join(str(len(flight)) for flight in flights)} bytes")
    return [bits, cuts]


def take_up_again(pair: Pair) -> Tally:
    """A session that a client kept: the server shows its certificate and asks for the client's all the same."""
    tally, shake = Tally("frys/1 session taken up again", "attempts"), Handshake("frys/1", pair)
    first, server = shake.ends()
    data = b""
    for number in range(len(FLIGHTS)):
        data = (server if number % 2 else first).step(data)
    first.step(data)
    session = first.connection.get_session()
    assert session is not None
    whole = [len(flight) for flight in shake.flights()]
    for _ in range(RESUMPTIONS):
        client, server = shake.ends()
        client.connection.set_session(session)
        sizes = []
        data = b""
        for number in range(len(FLIGHTS)):
            data = (server if number % 2 else client).step(data)
            sizes.append(len(data))
        # Without certificates a server's flight has some 1,400 bytes, and a client's 80.
        is_refused = sizes[0] > whole[0] and sizes[1:3] == whole[1:3]
        tally.check(is_refused, f"flights of {sizes}, not of {whole}: not offered, or certificates were left out")
    return tally


def mutate_record(pair: Pair) -> Tally:
    """One bit in every byte of a record after the handshake, its header too: nothing of it is read."""
    tally, shake = Tally("frys/1 record, one bit", "mutants"), Handshake("frys/1", pair)
    size, at = 1, 0
    while at < size:
        client, server = shake.ends()
        data = b""
        for number in range(len(FLIGHTS) - 1):
            data = (server if number % 2 else client).step(data)
        server.step(data)
        client.connection.send(bytes(RECORD_BYTES))
        record = client.connection.bio_read(READ_BYTES)
        size = len(record)
        server.connection.bio_write(flipped(record, at, at * 5 % 8))
        try:
            read = server.connection.recv(READ_BYTES)
        except SSL.Error:
            read = b""
        tally.check(not read, f"byte {at} of {size} may be wrong")
        at += 1
    return tally


def handshakes() -> list[Tally]:
    """Both protocols, what follows a handshake, sessions that somebody kept, and post-quantum identities."""
    pair = make_pair()
    tallies = [tally for name in ("frys/1", "frys-join/1") for tally in mutate_handshake(name, pair)]
    tallies += mutate_handshake("frys/1", make_pair(ML_DSA_65), ML_DSA_STEP_BYTES)
    return [*tallies, mutate_record(pair), take_up_again(pair)]
