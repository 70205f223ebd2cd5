"""The membership benchmark for real, as short as it gets: namespaces, three nodes, one kill; its end; and the relay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from frys_node.bench.namespaces import Unavailable, unshare_command

ROOT = Path(__file__).resolve().parents[2]
BENCH = [
    sys.executable,
    "-m",
    "frys_node",
    "bench",
    "membership",
    "--side",
    "ours",
    "--only",
    "kill-3",
    "--rounds",
    "1",
]
STARTED_S_MAX, GONE_S_MAX = 60.0, 10.0

PROBE = """
import hashlib, json, os, socket, subprocess, sys, time
from frys_node.bench import namespaces
namespaces.enter(sys.argv)
subnet = namespaces.Subnet("r", 0, bridged=False)
subnet.grow(2)
links = [subnet.link(1), subnet.link(2)]
relay = [sys.executable, "-m", "frys_node.bench.relay", "--delay-ms", "30", "--jitter-ms", "20", "--seed", "3", *links]
subprocess.Popen(relay)
ECHO = '''
import socket, threading
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 9000))
def tcp(listener=socket.create_server(("0.0.0.0", 9000))):
    peer, _ = listener.accept()
    while data := peer.recv(65536):
        peer.sendall(data)
threading.Thread(target=tcp, daemon=True).start()
print("up", flush=True)
while True:
    udp.sendto(*udp.recvfrom(2048))
'''
echo = subprocess.Popen(namespaces.inside("r2", sys.executable, "-c", ECHO), stdout=subprocess.PIPE)
echo.stdout.readline()
CLIENT = '''
import hashlib, json, os, socket, threading, time
tcp = socket.create_connection(("10.77.0.2", 9000), 10)
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.settimeout(5)
sent, trips, order = {}, [], []
for number in range(100):
    sent[number] = time.monotonic()
    udp.sendto(b"%d" % number, ("10.77.0.2", 9000))
    time.sleep(0.001)
for _ in range(100):
    number = int(udp.recv(2048))
    order.append(number)
    trips.append(time.monotonic() - sent[number])
data = os.urandom(1 << 18)
threading.Thread(target=tcp.sendall, args=(data,)).start()
back = b""
while len(back) < len(data):
    back += tcp.recv(65536)
print(json.dumps({"shortest_s": min(trips), "is_sorted": order == sorted(order), "is_whole": back == data}))
'''
client = subprocess.run(namespaces.inside("r1", sys.executable, "-c", CLIENT), capture_output=True, timeout=60)
sys.stdout.write(client.stdout.decode())
sys.stderr.write(client.stderr.decode())
sys.stdout.flush()
"""


@pytest.fixture(autouse=True)
def namespaces_allowed() -> None:
    """Skip where no namespaces can be made; in CI that is a failure."""
    try:
        unshare_command()
    except Unavailable as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{reason.message} ({reason.hint})")


def parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(path.parent.name)] = int(fields[1])
    return found


def below(process: int) -> Iterator[int]:
    """Every descendant of a process."""
    table = parents()
    waiting = [process]
    while waiting:
        parent = waiting.pop()
        children = [child for child, its in table.items() if its == parent]
        yield from children
        waiting += children


@pytest.mark.slow
def test_one_kill_among_three_nodes_is_seen_by_both_survivors() -> None:
    """The command of the documents, from namespaces to figures: the kill is known, and nobody else is buried."""
    run = subprocess.run([*BENCH, "--json"], cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(run.stdout)
    assert report["failures"] == {}, run.stderr[-4000:]
    rows = {row["metric"]: row["ours"] for row in report["rows"]}
    assert rows["all_dead_s"]["seen"] == 1
    assert rows["false_deaths"]["p50"] == 0
    assert report["versions"]["ours"].startswith("frys-node ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_process_behind(number: signal.Signals) -> None:
    """Whatever ends the program that was started by hand, the kernel ends the nodes and the namespaces with it."""
    with subprocess.Popen(BENCH, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        started = time.monotonic()
        while not (nodes := [pid for pid in below(run.pid) if is_node(pid)]):
            assert time.monotonic() - started < STARTED_S_MAX
            assert run.poll() is None
            time.sleep(0.05)
        everything = set(below(run.pid))
        assert everything > set(nodes)
        run.send_signal(number)
        run.wait()
    ended = time.monotonic()
    while left := everything & parents().keys():
        assert time.monotonic() - ended < GONE_S_MAX, f"still there: {left}"
        time.sleep(0.05)


def is_node(process: int) -> bool:
    """True if a process is a node of the benchmark."""
    try:
        return b"--bind\0" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
def test_the_relay_delays_and_reorders_and_keeps_tcp_whole(tmp_path: Path) -> None:
    """No answer is faster than twice the shortest delay, datagrams overtake each other, a stream arrives unharmed."""
    script = tmp_path / "probe.py"
    script.write_text(PROBE, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, check=False, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["shortest_s"] >= 2 * 0.010
    assert not seen["is_sorted"]
    assert seen["is_whole"]
