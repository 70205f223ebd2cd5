"""Redis clients over TLS: the hybrid group, the tools that have to be let in, and who speaks in the clear."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import redis
import trio

from frys_node.base.errors import ConfigError
from frys_node.base.types import Address
from frys_node.client.secured import secured
from frys_node.secure.web_tls import client_context
from frys_node.transport.network import SystemNetwork
from tests.integration.cache.resp_rig import TOKEN, command
from tests.integration.cache.test_resp_server import ask, cuts, dial, hang_up, serving
from tests.integration.papers import Papers

__all__ = ["hang_up"]


@pytest.fixture
async def papers(tmp_path: Path) -> Papers:
    """A certificate for this machine."""
    return Papers(tmp_path)


def settings(papers: Papers, **more: Any) -> dict[str, Any]:
    """Of the cache."""
    return {"resp_tls_certificate": str(papers.chain), "resp_tls_key": str(papers.key), **more}


async def answer(stream: Any, data: bytes, count: int) -> bytes:
    """Send, and read that many bytes."""
    await stream.send_all(data)
    heard = b""
    while len(heard) < count:
        heard += await stream.receive_some(65_536)
    return heard


async def test_a_client_with_the_hybrid_group_is_served_with_large_replies_too(tmp_path: Path, papers: Papers) -> None:
    """Commands, pipelines, megabytes, a subscription, and many clients whose replies wait for the end of a turn."""
    async with serving(tmp_path, **settings(papers)) as (_, address):

        async def connect() -> Any:
            transport = await SystemNetwork().connect(address)
            return await secured(transport, address, client_context(papers.ca.read_bytes()))

        streams = [await connect() for _ in range(20)]
        first = streams[0]
        big = b"x" * 500_000
        assert await answer(first, command("SET", "big", big), 5) == b"+OK\r\n"
        heard = await answer(first, command("GET", "big") * 8, 8 * 500_011)
        assert heard == (b"$500000\r\n" + big + b"\r\n") * 8
        for number, stream in enumerate(streams):
            await stream.send_all(command("SET", f"k{number}", number) + command("GET", f"k{number}"))
        for number, stream in enumerate(streams):
            digits = str(number).encode()
            assert await answer(stream, b"", 11 + len(digits)) == b"+OK\r\n$%d\r\n%b\r\n" % (len(digits), digits)
        await answer(streams[1], command("SUBSCRIBE", "c"), 30)
        assert await answer(first, command("PUBLISH", "c", "hi"), 4) == b":1\r\n"
        assert b"message" in await answer(streams[1], b"", 30)
        for stream in streams:
            await stream.aclose()


async def test_redis_py_speaks_rediss_once_classical_clients_are_allowed(tmp_path: Path, papers: Papers) -> None:
    """Unchanged, with the authority's file and a token; without the switch its OpenSSL is refused, as is clear text."""
    url = "rediss://default:{}@localhost:{}?ssl_ca_certs={}"
    is_old = ssl.OPENSSL_VERSION_INFO < (3, 5)

    def use(port: int) -> bytes:
        with redis.Redis.from_url(url.format(TOKEN.decode(), port, papers.ca), socket_timeout=10) as client:
            client.set("k", "v")
            value: bytes = client.get("k")
            return value

    async with serving(tmp_path, resp="0.0.0.0:0", **settings(papers)) as (kernel, address):
        if is_old:
            with pytest.raises(redis.ConnectionError):
                await trio.to_thread.run_sync(use, address.port)
        clear = await dial(Address("127.0.0.1", address.port))
        assert not (await ask(clear, command("PING"), 7)).startswith(b"+")
        while "tls" not in cuts(kernel):  # noqa: ASYNC110 - a plain counter has nothing to wait on
            await trio.sleep(0.005)
    async with serving(tmp_path, resp="0.0.0.0:0", **settings(papers, resp_tls_classical=True)) as (_, address):
        assert await trio.to_thread.run_sync(use, address.port) == b"v"


async def test_a_client_that_never_shakes_hands_is_cut_in_time(tmp_path: Path, papers: Papers) -> None:
    """Also on loopback, where it would have to show nothing."""
    async with serving(tmp_path, **settings(papers, auth_s=0.3)) as (kernel, address):
        silent = await dial(address)
        assert await silent.receive_some(100) == b""
        assert cuts(kernel) == {"tls": 1}


async def test_papers_that_cannot_be_used_stop_the_start(tmp_path: Path, papers: Papers) -> None:
    """Rather than serve in the clear."""
    papers.key.chmod(0o644)
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True, allow_unwrapped=True):
        async with serving(tmp_path, **settings(papers)):
            raise AssertionError("it was started")
