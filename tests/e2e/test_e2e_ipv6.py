"""Real processes over IPv6 and over both: what binds, what is advertised, who finds whom."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess, free_port

LIMIT_S = 40.0


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 on the loopback interface")]


def wait(what: str, nodes: list[NodeProcess], probe: Callable[[], bool]) -> None:
    """Poll until the probe is true; fail with what was waited for and the nodes' last words."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for node in nodes:
            assert node.is_running, node.log_tail(30)
        if probe():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited {LIMIT_S:g} s for {what}: " + "\n".join(node.log_tail(10) for node in nodes))


def test_nodes_on_ipv6_and_on_both_form_one_cluster(tmp_path: Path) -> None:
    """`[::]` serves both families: one node joins by `[::1]`, one by 127.0.0.1, and each reaches each by gossip."""
    ports = [free_port() for _ in range(3)]
    advertised = [f"[::1]:{ports[0]}", f"[::1]:{ports[1]}", f"127.0.0.1:{ports[2]}"]
    nodes = [NodeProcess(name, tmp_path / name, advertise=at) for name, at in zip("abc", advertised, strict=True)]
    for node, port in zip(nodes, ports, strict=True):
        node.bind = f"[::]:{port}"
    first, *rest = nodes
    try:
        first.start()
        wait("the first node", [first], lambda: first.is_ready)
        rest[0].start([f"[::1]:{ports[0]}"])
        rest[1].start([f"127.0.0.1:{ports[0]}"])
        for node in nodes:
            wait("three alive", nodes, lambda n=node: n.is_ready and list(n.statuses().values()) == ["alive"] * 3)
        _, body = first.request("GET", "/v1/members")
        assert sorted(member["address"] for member in body["members"]) == sorted(advertised)
    finally:
        for node in nodes:
            node.stop()


def test_a_node_on_both_says_where_an_ipv6_cluster_reaches_it(tmp_path: Path) -> None:
    """Bound to `[::]` and told nothing, it advertised IPv4, which a node bound to `::1` cannot send to."""
    nodes = [NodeProcess(name, tmp_path / name) for name in "abc"]
    ports = [free_port() for _ in nodes]
    for node, host, port in zip(nodes, ("[::1]", "[::1]", "[::]"), ports, strict=True):
        node.bind = f"{host}:{port}"
    first, second, both = nodes
    expected = sorted(f"[::1]:{port}" for port in ports)

    def is_whole(node: NodeProcess) -> bool:
        return node.is_ready and list(node.statuses().values()) == ["alive"] * 3

    try:
        first.start()
        wait("the first node", [first], lambda: first.is_ready)
        second.start([f"[::1]:{ports[0]}"])
        wait("the second node", [first, second], lambda: second.is_ready)
        both.start([f"[::1]:{ports[1]}"])
        for again in (False, True):
            if again:
                both.stop()
                both.start()
            for node in nodes:
                wait("three alive", nodes, lambda n=node: is_whole(n))
            _, body = first.request("GET", "/v1/members")
            assert sorted(member["address"] for member in body["members"]) == expected
        time.sleep(3.0)
        for node in nodes:
            _, body = node.request("GET", "/v1/reachability")
            assert body["is_whole"], body["problems"]
            assert "membership.cannot_send" not in node.log_tail(200)
    finally:
        for node in nodes:
            node.stop()


def test_a_node_bound_to_ipv6_alone_joins_through_it(tmp_path: Path) -> None:
    """`--bind [::1]:PORT` and `join --seed [::1]:PORT` need no IPv4 at all, and what is bound is advertised."""
    nodes = [NodeProcess(name, tmp_path / name) for name in "ab"]
    ports = [free_port() for _ in nodes]
    for node, port in zip(nodes, ports, strict=True):
        node.bind = f"[::1]:{port}"
    try:
        nodes[0].start()
        wait("the first node", nodes[:1], lambda: nodes[0].is_ready)
        nodes[1].start([f"[::1]:{ports[0]}"])
        for node in nodes:
            wait("two alive", nodes, lambda n=node: n.is_ready and list(n.statuses().values()) == ["alive"] * 2)
        _, body = nodes[1].request("GET", "/v1/members")
        assert sorted(member["address"] for member in body["members"]) == sorted(f"[::1]:{port}" for port in ports)
    finally:
        for node in nodes:
            node.stop()
