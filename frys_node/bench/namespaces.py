"""A private network for runs that hurt nodes: namespaces, a bridge, and drops by nft, all inside one private namespace.

`enter` runs the program again as process 1 of new network, mount and process namespaces. So the machine's own
interfaces, firewall, `/run` and processes are never touched, and whatever the run started ends with it: when process 1
goes, the kernel ends every process in its namespace and takes the interfaces along. Process 1 in turn ends when the
program that was started by hand is gone, however it went.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from frys_node.base.errors import FrysError

INSIDE = "BENCH_PRIVATE_NETWORK"
"""Set inside: the descriptor of the pipe that closes when the outer program is gone."""

TOOLS = ("ip", "nft", "unshare", "mount")
SUBNETS_MAX = 8
NODES_MAX = 100
GATEWAY = 254
CLONE_NEWNET = 0x4000_0000
CUT, LOSS, COUNT = "cut", "loss", "traffic"
"""Tables of nft in a node's namespace: drops between nodes, random loss, counters."""


class Unavailable(FrysError):
    """This machine cannot give what the run needs: a tool or a right is missing. Nothing was started."""

    code = "bench.unavailable"


class ToolFailed(FrysError):
    """`ip`, `nft` or `mount` refused inside the private network. The run ends and takes its namespaces along."""

    code = "bench.tool_failed"


def search_path() -> str:
    """PATH with the administrator's folders, where nft and ip live."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def is_inside() -> bool:
    """True in the private network."""
    return INSIDE in os.environ


def unshare_command() -> list[str]:
    """Return the command that makes the namespaces, as root or with a user namespace.

    Raises:
        Unavailable: A tool is missing, or the machine does not allow it.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool, path=search_path()) is None]
    if missing:
        hint = "install iproute2 nftables util-linux mount (Debian's names), as `.ci/apt` does"
        raise Unavailable(f"missing: {', '.join(missing)}", hint=hint)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode != 0:
        hint = "run it as root, or allow user namespaces"
        raise Unavailable("this machine does not let this user make network namespaces", hint=hint)
    return command


def enter(arguments: Sequence[str]) -> None:
    """Run `python ARGUMENTS` in the private network and exit with its code; inside, prepare it and return.

    Raises:
        Unavailable: This machine cannot make the namespaces.
    """
    if is_inside():
        _prepare()
        return
    command = [*unshare_command(), sys.executable, *arguments]
    reader, writer = os.pipe()
    environment = os.environ | {INSIDE: str(reader), "PATH": search_path()}
    process = subprocess.Popen(command, env=environment, pass_fds=[reader])
    os.close(reader)
    writers = [writer]
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A signal may come twice: the second one finds nothing left to close.
        signal.signal(number, lambda *_: os.close(writers.pop()) if writers else None)
    # Ctrl-C reaches the whole terminal group, process 1 too: it cleans up and ends, and then so does this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(process.wait())


def _prepare() -> None:
    threading.Thread(target=_end_with, args=(int(os.environ[INSIDE]),), name="outer", daemon=True).start()
    run("mount", "-t", "tmpfs", "none", "/run")
    run("ip", "link", "set", "lo", "up")


def _end_with(reader: int) -> NoReturn:
    """Wait for the outer program's end and end at once: the kernel then ends everything else in here."""
    os.read(reader, 1)
    os._exit(128 + signal.SIGTERM)


def run(*command: str) -> str:
    """Run a tool and return what it prints.

    Raises:
        ToolFailed: It failed; with what it said.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolFailed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Subnet:
    """Namespaces ``<prefix>1``, ``<prefix>2`` ... with an address each, on one bridge that this process reaches too."""

    def __init__(self, prefix: str, number: int, *, bridged: bool = True) -> None:
        assert is_inside(), "enter() comes first"
        assert 0 <= number < SUBNETS_MAX
        self.prefix = prefix
        self.network = f"10.77.{number}"
        self.bridge = f"br-{prefix}"
        self.bridged = bridged
        self.count = 0
        if bridged:
            run("ip", "link", "add", "name", self.bridge, "type", "bridge")
            run("ip", "addr", "add", f"{self.network}.{GATEWAY}/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")

    def namespace(self, index: int) -> str:
        """Return the name of a namespace; the first is 1."""
        return f"{self.prefix}{index}"

    def host(self, index: int) -> str:
        """Return the address of a namespace."""
        return f"{self.network}.{index}"

    def link(self, index: int) -> str:
        """Return the near end of a namespace's cable."""
        return f"v-{self.prefix}{index}"

    def grow(self, count: int) -> None:
        """Make namespaces until there are `count`."""
        assert count <= NODES_MAX
        for index in range(self.count + 1, count + 1):
            name, link = self.namespace(index), self.link(index)
            run("ip", "netns", "add", name)
            run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", link, *(["master", self.bridge] if self.bridged else []), "up")
            run("ip", "-n", name, "addr", "add", f"{self.host(index)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "route", "add", "default", "via", f"{self.network}.{GATEWAY}")
        self.count = max(self.count, count)


def inside(namespace: str, *command: str) -> list[str]:
    """Return a command line that runs a command in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


def nft(namespace: str, rules: str) -> str:
    """Carry out nft commands in a namespace, as one transaction."""
    return run(*inside(namespace, "nft", rules))


def cut(namespace: str, hosts: Sequence[str], *, hooks: Sequence[str] = ("input",)) -> None:
    """Drop what comes from other hosts (the hook `input`) and what goes to them (`output`: the sender is told)."""
    rules = f"add table inet {CUT}; add set inet {CUT} far {{ type ipv4_addr; }}; "
    rules += f"add element inet {CUT} far {{ {', '.join(hosts)} }}"
    for hook in hooks:
        side = "saddr" if hook == "input" else "daddr"
        rules += f"; add chain inet {CUT} {hook} {{ type filter hook {hook} priority 0; }}"
        rules += f"; add rule inet {CUT} {hook} ip {side} @far counter drop"
    nft(namespace, rules)


def isolate(namespace: str) -> None:
    """Drop everything that comes and goes: to all others the host is gone without a word; its loopback lives."""
    rules = f"add table inet {CUT}"
    for hook, device in (("input", "iifname"), ("output", "oifname")):
        rules += f"; add chain inet {CUT} {hook} {{ type filter hook {hook} priority 0; }}"
        rules += f"; add rule inet {CUT} {hook} {device} eth0 drop"
    nft(namespace, rules)


def lose(namespace: str, percent: int) -> None:
    """Drop this share of what comes in over the cable, whatever its protocol, at random."""
    rules = f"add table inet {LOSS}; add chain inet {LOSS} i {{ type filter hook input priority 0; }}; "
    nft(namespace, rules + f"add rule inet {LOSS} i iifname eth0 numgen random mod 100 < {percent} drop")


def dropped(namespace: str) -> int:
    """Return how many packets the rules of `cut` have dropped."""
    return sum(map(int, re.findall(r"counter packets (\d+)", nft(namespace, f"list table inet {CUT}"))))


def forget(namespace: str, table: str) -> None:
    """Take a table and its drops away."""
    nft(namespace, f"delete table inet {table}")


def count_traffic(namespace: str) -> None:
    """Count what leaves over the cable from now on, by protocol."""
    rules = f"add table inet {COUNT}; add chain inet {COUNT} o {{ type filter hook output priority 0; }}; "
    rules += f"add rule inet {COUNT} o oifname eth0 meta l4proto udp counter; "
    nft(namespace, rules + f"add rule inet {COUNT} o oifname eth0 meta l4proto tcp counter")


def counted(namespace: str) -> dict[str, tuple[int, int]]:
    """Return packets and IP bytes that have left since `count_traffic`, by protocol."""
    found = {}
    for line in nft(namespace, f"list table inet {COUNT}").splitlines():
        words = line.split()
        if "counter" in words:
            protocol = words[words.index("l4proto") + 1]
            found[protocol] = (int(words[words.index("packets") + 1]), int(words[words.index("bytes") + 1]))
    return found


def connect(namespace: str, host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a TCP connection made inside a namespace, so that its loopback can be asked from out here.

    Raises:
        OSError: Nobody listens there, or the namespace is gone.
    """
    result: list[socket.socket | OSError] = []

    def attempt() -> None:
        # A thread of its own changes its namespace and ends; the socket stays where it was made.
        try:
            _join_namespace(Path("/run/netns") / namespace)
            result.append(socket.create_connection((host, port), timeout_s))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=attempt, name=f"connect-{namespace}")
    thread.start()
    thread.join()
    (outcome,) = result
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _join_namespace(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")
    finally:
        os.close(descriptor)
