"""Asks name servers where a service is: SRV records by UDP, by TCP when the answer does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from frys_node.base.errors import FrysError, MalformedFrame
from frys_node.base.ports import Network
from frys_node.base.types import Address
from frys_node.transport.dns import Answer, Resolver, decode_answer, encode_query, resolver_of

TRY_S = 1.5
"""Wait for one name server's answer before it, or the next one, is asked again."""

ROUNDS = 2
LOOKUP_S = 12.0
"""Longest lookup, all search domains together."""

RESOLV_CONF = Path("/etc/resolv.conf")
ANSWER_BYTES_MAX = 65_535


async def lookup(network: Network, name: str, resolver: Resolver | None) -> list[Address]:
    """Return the targets of a name's SRV records in the order in which to try them; empty when there is none.

    A name without a final dot is completed by the search domains; the first form that has records counts.
    """
    known = _system_resolver() if resolver is None else resolver
    servers = list(known.nameservers)
    with trio.move_on_after(LOOKUP_S):
        for form in known.names(name):
            answer = await _ask_any(network, servers, form)
            if answer is not None and answer.services:
                return [service.target for service in answer.services]
    return []


async def _ask_any(network: Network, servers: list[Address], name: str) -> Answer | None:
    """Return the first answer, None if nobody gives one; who answered is asked first from then on."""
    for server in [*servers] * ROUNDS:
        try:
            with trio.move_on_after(TRY_S):
                answer = await _ask(network, server, name)
                servers.remove(server)
                servers.insert(0, server)
                return answer
        except (FrysError, OSError):
            # A server that fails or lies is as good as none: the next one is asked.
            await trio.lowlevel.checkpoint()
    return None


def _system_resolver() -> Resolver:
    try:
        text = RESOLV_CONF.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return resolver_of(text)


async def _ask(network: Network, server: Address, name: str) -> Answer:
    number = int.from_bytes(os.urandom(2), "big")
    query = encode_query(number, name)
    datagram = await network.bind(Address("::" if ":" in server.host else "0.0.0.0", 0))  # noqa: S104 (asks, serves not)
    try:
        datagram.send(query, server)
        while True:
            for packet, source in await datagram.receive():
                if source != server:
                    continue
                answer = decode_answer(packet, number, name)
                return await _ask_by_tcp(network, server, number, name) if answer.is_truncated else answer
    finally:
        with trio.CancelScope(shield=True):
            await datagram.aclose()


async def _ask_by_tcp(network: Network, server: Address, number: int, name: str) -> Answer:
    query = encode_query(number, name)
    stream = await network.connect(server)
    try:
        await stream.send_all(len(query).to_bytes(2, "big") + query)
        data = bytearray()
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            piece = await stream.receive_some(ANSWER_BYTES_MAX)
            if not piece:
                raise MalformedFrame("the name server hung up")
            data += piece
        return decode_answer(bytes(data[2 : 2 + int.from_bytes(data[:2], "big")]), number, name)
    except trio.BrokenResourceError as error:
        raise MalformedFrame("the name server hung up") from error
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()
