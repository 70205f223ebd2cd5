"""HTTP over TLS on real sockets: the two clients, curl, and what is refused."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_fixtures import TOKEN, serving
from OpenSSL import SSL

from frys_node.base.errors import ConfigError, NodeUnreachable
from frys_node.base.types import Address
from frys_node.client import Client, SyncClient
from frys_node.client.secured import SecureWire, context_of, secured
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.secure.tls import new_context
from frys_node.secure.web_tls import client_context
from frys_node.transport.blocking import Poller
from frys_node.transport.network import SystemNetwork
from tests.integration.papers import Papers, pem

BIG = b"x" * 3_000_000


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    """A certificate for this machine."""
    return Papers(tmp_path)


async def _echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse.json({"who": request.principal.name, "size": len(request.body)})


async def _big(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(body=BIG, content_type="application/octet-stream")


@asynccontextmanager
async def secure(data_dir: Path, papers: Papers, **options: Any) -> AsyncIterator[tuple[Kernel, Http]]:
    """Serve over TLS with what the clients ask for."""
    async with serving(data_dir, tls=papers.settings | options.pop("tls", {}), **options) as (kernel, http):
        http.route("POST", "/v1/echo", _echo, scope="write", body_bytes_max=1 << 24)
        http.route("GET", "/v1/big", _big, scope="read")
        yield kernel, http


def refused(kernel: Kernel) -> dict[str, int]:
    """Failed handshakes by reason."""
    counter: Any = next(m for m in kernel.metrics if m.name == "frys_network_tls_refused_total")
    return {labels[0]: int(value) for labels, value in counter.values.items()}


async def test_both_clients_speak_tls_and_know_whom_they_speak_to(tmp_path: Path, papers: Papers) -> None:
    """Through a node's members, with a bearer inside, by literal address and by name."""
    async with secure(tmp_path, papers, token=True) as (_, http):
        port = Address.parse(http.address).port
        for host in ("127.0.0.1", "localhost"):
            url = f"https://{host}:{port}"
            async with Client(url, ca=papers.ca, token=TOKEN, straight=False) as client:
                assert await client.members() == []
            with SyncClient(url, ca=papers.ca, token=TOKEN, straight=False) as sync:
                assert await trio.to_thread.run_sync(sync.members) == []
                assert await trio.to_thread.run_sync(sync.members) == []


@pytest.mark.parametrize("wrong", ["authority", "name", "expired", "system"])
async def test_a_server_that_is_not_whom_it_should_be_gets_no_request(
    tmp_path: Path, papers: Papers, wrong: str
) -> None:
    """Another authority, another name, a certificate of last year, an authority that nobody trusts: nothing is sent."""
    other = Papers(tmp_path, "other")
    if wrong == "name":
        papers.issue("api.example.org", "10.0.0.5")
    if wrong == "expired":
        papers.issue("localhost", "127.0.0.1", age_s=100 * 86_400)
    ca = {"authority": other.ca, "system": None}.get(wrong, papers.ca)
    async with secure(tmp_path, papers, token=True) as (kernel, http):
        async with Client(f"https://{http.address}", ca=ca, token=TOKEN, straight=False, timeout_s=2) as client:
            with pytest.raises(NodeUnreachable):
                await client.members()
        with (
            SyncClient(f"https://{http.address}", ca=ca, token=TOKEN, straight=False, timeout_s=2) as sync,
            pytest.raises(NodeUnreachable),
        ):
            await trio.to_thread.run_sync(sync.members)
        counted: Any = next(m for m in kernel.metrics if m.name == "frys_network_requests_total")
        assert not counted.values


async def test_large_bodies_pass_both_ways_on_blocking_sockets(tmp_path: Path, papers: Papers) -> None:
    """Megabytes up and down over one wire, record by record, whatever the kernel takes at a time."""
    async with secure(tmp_path, papers) as (_, http):

        def talk() -> bytes:
            wire, poller = SecureWire(Address.parse(http.address), context_of(str(papers.ca))), Poller()
            head = f"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BIG)}\r\n\r\n".encode()
            ask = b"GET /v1/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            rest, heard = memoryview(head + BIG + ask), b""
            while True:
                poller.watch(wire, writing=not wire.is_connected or wire.wants_write(bool(rest)))
                assert list(poller.wait(10.0))
                if not wire.is_connected:
                    poller.forget(wire)
                    wire.finish_connect()
                    continue
                rest = rest[wire.send(rest) :]
                while (data := wire.receive()) is not None:
                    heard += data
                    if not data:
                        poller.forget(wire)
                        wire.close()
                        poller.close()
                        return heard

        heard = await trio.to_thread.run_sync(talk)
        assert f'"size":{len(BIG)}'.encode() in heard[:1_000]
        assert heard.endswith(BIG)


async def test_a_body_that_comes_with_the_end_of_the_handshake_is_not_taken_for_a_part_of_it(
    tmp_path: Path, papers: Papers
) -> None:
    """A client may send at once behind its last message, more than a handshake may have."""
    async with secure(tmp_path, papers) as (_, http):
        transport = await SystemNetwork().connect(Address.parse(http.address))
        tls = SSL.Connection(client_context(papers.ca.read_bytes()), None)
        tls.set_connect_state()

        def made() -> bytes:
            parts: list[bytes] = []
            while True:
                try:
                    parts.append(tls.bio_read(65_536))
                except SSL.WantReadError:
                    return b"".join(parts)

        while True:
            try:
                tls.do_handshake()
                break
            except SSL.WantReadError:
                await transport.send_all(made())
                tls.bio_write(await transport.receive_some())
        size = 100_000
        body = f"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size
        while body:
            body = body[tls.send(body[:16_384]) :]
        await transport.send_all(made())
        heard = b""
        while f'"size":{size}'.encode() not in heard:
            tls.bio_write(await transport.receive_some())
            try:
                heard += tls.recv(65_536)
            except SSL.WantReadError:
                continue
        await transport.aclose()


async def curl(*arguments: str) -> tuple[int, bytes]:
    """Run curl; its exit code and output."""
    done = await trio.run_process(["curl", "-s", "--max-time", "10", *arguments], capture_stdout=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_curl_is_served_with_the_authoritys_file_and_classical_tools_only_by_the_switch(
    tmp_path: Path, papers: Papers
) -> None:
    """An OpenSSL without ML-KEM is refused, unless `tls_classical` is set; the clear text is refused in any case."""
    found = re.search(rb"OpenSSL/(\d+)\.(\d+)", (await curl("--version"))[1])
    has_kem = found is not None and (int(found[1]), int(found[2])) >= (3, 5)
    async with secure(tmp_path, papers) as (kernel, http):
        code, _ = await curl("--cacert", str(papers.ca), f"https://{http.address}/livez")
        assert code == (0 if has_kem else 35)
        assert has_kem or refused(kernel) == {"group": 1}
        assert (await curl(f"http://{http.address}/livez"))[0] in (1, 52, 56)
        assert "not_tls" in refused(kernel)
    async with secure(tmp_path, papers, tls={"tls_classical": True}) as (_, http):
        port = Address.parse(http.address).port
        assert await curl("--cacert", str(papers.ca), f"https://localhost:{port}/livez") == (0, b"ok\n")
        assert (await curl(f"https://localhost:{port}/livez"))[0] == 60
        code, data = await curl("--cacert", str(papers.ca), f"https://localhost:{port}/v1/big")
        assert (code, data == BIG) == (0, True)
        code, data = await curl("-0", "--cacert", str(papers.ca), f"https://localhost:{port}/livez")
        assert (code, data) == (0, b"ok\n")


@pytest.mark.parametrize(
    ("what", "reason"),
    [("tls1.2", "tls_version"), ("x25519", "group"), ("p256", "group"), ("junk", "not_tls"), ("eof", "eof")],
)
async def test_weaker_handshakes_are_refused_with_their_reason(
    tmp_path: Path, papers: Papers, what: str, reason: str
) -> None:
    """And the listener goes on serving the others."""
    async with secure(tmp_path, papers) as (kernel, http):
        address = Address.parse(http.address)

        def knock() -> None:
            with socket.create_connection((address.host, address.port), timeout=10) as raw:
                if what in ("junk", "eof"):
                    raw.sendall(b"\0" * 100 if what == "junk" else b"")
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(1_000):
                        continue
                else:
                    context = ssl.create_default_context(cafile=str(papers.ca))
                    if what == "tls1.2":
                        context.maximum_version = ssl.TLSVersion.TLSv1_2
                    if what == "p256":
                        context.set_ecdh_curve("prime256v1")
                    with pytest.raises(OSError, match=r".*"):
                        context.wrap_socket(raw, server_hostname="localhost")

        await trio.to_thread.run_sync(knock)
        while not refused(kernel):  # noqa: ASYNC110 - a plain counter has nothing to wait on
            await trio.sleep(0.005)
        assert refused(kernel) == {reason: 1}
        stream = await secured(await SystemNetwork().connect(address), address, client_context(papers.ca.read_bytes()))
        await stream.aclose()


async def test_a_slow_handshake_holds_up_nobody_and_has_an_end(tmp_path: Path, papers: Papers) -> None:
    """Connections that say nothing are cut after the time that headers have, and count against the limits."""
    async with secure(tmp_path, papers, header_s=0.3, connections_per_address=3) as (_, http):
        address = Address.parse(http.address)
        network = SystemNetwork()
        silent = [await network.connect(address) for _ in range(2)]
        async with Client(f"https://{http.address}", ca=papers.ca, straight=False) as client:
            assert await client.members() == []
            over = await network.connect(address)
            assert await over.receive_some(100) == b""
        for stream in silent:
            assert await stream.receive_some(100) == b""
        for stream in (*silent, over):
            await stream.aclose()


async def test_handshakes_of_one_address_are_bounded(tmp_path: Path, papers: Papers) -> None:
    """They cost more than anything that a stranger can ask for: beyond the burst the node hangs up before the first."""
    limits = {"handshakes_per_s": 0.01, "handshakes_burst": 2}
    async with secure(tmp_path, papers, http="0.0.0.0:0", token=True, **limits) as (kernel, http):
        address = Address("127.0.0.1", Address.parse(http.address).port)
        trusted = client_context(papers.ca.read_bytes())
        for _ in range(2):
            stream = await secured(await SystemNetwork().connect(address), address, trusted)
            await stream.aclose()
        third = await SystemNetwork().connect(address)
        assert await third.receive_some(100) == b""
        await third.aclose()
        counted: Any = next(m for m in kernel.metrics if m.name == "frys_network_connections_refused_total")
        assert counted.values == {("handshakes",): 1}


async def test_a_file_that_changes_is_shown_to_the_next_connection(
    tmp_path: Path, papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewed certificate needs no restart; a broken one leaves the old in force."""
    monkeypatch.setattr("frys_node.kernel.tls.FILES_LOOK_S", 0.05)
    monkeypatch.setattr("frys_node.kernel.tls.RETRY_S", 0.05)

    async def serial(address: Address) -> int:
        transport = await SystemNetwork().connect(address)
        stream: Any = await secured(transport, address, client_context(papers.ca.read_bytes()))
        certificate = stream.connection.get_peer_certificate(as_cryptography=True)
        await stream.aclose()
        return int(certificate.serial_number)

    async with secure(tmp_path, papers) as (_, http):
        address = Address.parse(http.address)
        first = await serial(address)
        papers.chain.write_bytes(b"broken")
        await trio.sleep(0.2)
        assert await serial(address) == first
        papers.issue("localhost", "127.0.0.1")
        while await serial(address) == first:  # noqa: ASYNC110 - the listener tells nobody
            await trio.sleep(0.02)


@pytest.mark.parametrize("wrong", ["missing", "open", "mixed", "empty", "passphrase"])
async def test_papers_that_cannot_be_used_stop_the_start(tmp_path: Path, papers: Papers, wrong: str) -> None:
    """A file that is not there, a key that everybody reads, a key of another: nothing is bound, in the clear least."""
    if wrong == "missing":
        papers.chain.unlink()
    elif wrong == "open":
        papers.key.chmod(0o644)
    elif wrong == "mixed":
        papers.key.write_bytes(pem(Ed25519PrivateKey.generate()))
    elif wrong == "empty":
        papers.chain.write_bytes(b"")
    else:
        papers.key.write_bytes(
            Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True, allow_unwrapped=True):
        async with secure(tmp_path, papers):
            raise AssertionError("it was started")


async def test_a_client_never_agrees_on_less_than_the_hybrid_group(tmp_path: Path, papers: Papers) -> None:
    """A server of another make that has X25519 alone is refused by the client, whatever its certificate."""
    context = new_context()
    from cryptography.hazmat.bindings.openssl.binding import Binding

    Binding().lib.SSL_CTX_set1_curves_list(context._context, b"X25519")
    context.use_certificate_file(str(papers.chain))
    context.use_privatekey_file(str(papers.key))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            raw, _ = server.accept()
            with raw:
                connection = SSL.Connection(context, raw)
                connection.set_accept_state()
                with pytest.raises(SSL.Error):
                    connection.do_handshake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve)
            async with Client(f"https://127.0.0.1:{port}", ca=papers.ca, straight=False, timeout_s=1) as client:
                with pytest.raises(NodeUnreachable):
                    await client.members()


def test_urls_of_both_kinds_are_refused(papers: Papers) -> None:
    """A token must not travel in the clear to one node because another speaks TLS."""
    with pytest.raises(ConfigError, match="some are not"):
        SyncClient(["https://a:1", "http://b:1"], ca=papers.ca)
    with pytest.raises(ConfigError, match="cannot read"):
        SyncClient("https://a:1", ca="/nowhere/ca.pem")
