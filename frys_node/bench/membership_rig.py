"""The two sides of the membership benchmark: clusters of real processes, one namespace a node, ours and serf's.

Both are started, killed, cut off and read in the same way; only the command lines, the words of their logs and the way
to ask for a leave or an event differ. Only processes started here are ever signalled, by their own handle.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import frys_node
from frys_node.bench import namespaces
from frys_node.bench.membership_observer import (
    ALIVE,
    Observer,
    Parse,
    TookTooLong,
    parse_mark,
    parse_ours,
    parse_serf,
)
from frys_node.bench.namespaces import Subnet, Unavailable
from frys_node.demo.console import Console
from frys_node.testing.provenance import code_digest
from frys_node.testing.revision import commit

OURS, SERF = "ours", "serf"
PORT = 7946
HTTP_PORT = 8080
HTTP_TIMEOUT_S = 5.0
READY_S_MAX = 120.0
SETTLE_S_MAX = 60.0
STOP_S_MAX = 5.0
LISTEN_POLL_S = 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CODE = ("frys_node.cli.start", "frys_node.bench.membership")
"""What runs as a node, and what measures it: two states of one commit that was edited are two versions."""


class Usage(NamedTuple):
    """What a process has used up to an instant."""

    cpu_s: float
    rss_mib: float


class Node:
    """One process in one namespace."""

    def __init__(self, name: str, index: int, host: str, home: Path) -> None:
        self.name = name
        self.index = index
        self.host = host
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """True while the process has not ended."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> float:
        """Send a signal and return the instant."""
        assert self.process is not None
        at_s = time.monotonic()
        self.process.send_signal(number)
        return at_s

    def kill(self) -> float:
        """End the process with SIGKILL and return the instant."""
        at_s = self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        return at_s

    def listens(self) -> bool:
        """True once the cluster port is bound for UDP in the node's namespace."""
        assert self.process is not None
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self.process.pid}/net/udp").read_text().splitlines()[1:]
            return any(line.split()[1].endswith(f":{PORT:04X}") for line in lines)
        return False

    def usage(self) -> Usage:
        """Return processor time and resident memory."""
        assert self.process is not None
        proc = Path(f"/proc/{self.process.pid}")
        # Ticks, not the scheduler's nanoseconds: those leave out the threads that have ended.
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return Usage(cpu_s, int((proc / "statm").read_text().split()[1]) * PAGE_BYTES / (1 << 20))


class Side:
    """A cluster of one kind. Node 1 is there first and is never hurt: it is the seed of both kinds."""

    label = ""
    parse: Parse

    def __init__(self, folder: Path, subnet: Subnet, observer: Observer, profile: str) -> None:
        self.folder = folder
        self.subnet = subnet
        self.observer = observer
        self.profile = profile
        self.nodes: list[Node] = []

    def command(self, node: Node) -> list[str]:
        """Return the command line that starts a node, or starts it again."""
        raise NotImplementedError

    def request_leave(self, node: Node) -> None:
        """Ask a node to leave for good, and return at once."""
        raise NotImplementedError

    def send_event(self, node: Node, mark: str) -> bool:
        """Send a user event from a node; False if this side has none."""
        raise NotImplementedError

    def listen_for_events(self) -> None:
        """Make user events visible to the observer; where the log shows them, nothing has to be done."""

    def is_quiet(self) -> bool:
        """True if nothing is being moved between the nodes; serf has nothing to move."""
        return True

    def forget(self, node: Node) -> None:
        """Throw away what a node keeps on disk: it left."""
        shutil.rmtree(node.home / "data", ignore_errors=True)

    def lay(self, count: int) -> None:
        """Make namespaces and nodes, without starting any."""
        self.subnet.grow(count)
        for index in range(1, count + 1):
            home = self.folder / self.subnet.namespace(index)
            home.mkdir(parents=True)
            self.nodes.append(Node(self.subnet.namespace(index), index, self.subnet.host(index), home))

    def start(self, node: Node) -> None:
        """Start a node's process with its output going to the observer."""
        reader, writer = os.pipe()
        line = namespaces.inside(node.name, *self.command(node))
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "XDG_STATE_HOME": str(self.folder / "state")}
        try:
            node.process = subprocess.Popen(
                line, cwd=node.home, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
            )
        finally:
            os.close(writer)
        self.observer.watch(node.name, reader, type(self).parse, is_fresh=True)

    def start_seed(self, console: Console) -> None:
        """Start the first node and wait until others can join it."""
        self.start(self.nodes[0])
        self.wait(console, "the first node to listen", self.is_seed_ready, READY_S_MAX)

    def is_seed_ready(self) -> bool:
        """True once the first node takes others in."""
        return self.nodes[0].listens()

    def listens(self, node: Node) -> bool:
        """True once a node answers gossip; of serf that is when its port is bound."""
        return node.listens()

    def running(self) -> list[str]:
        """Names of the nodes whose processes run."""
        return [node.name for node in self.nodes if node.is_running]

    def others(self, node: Node) -> list[str]:
        """Names of the running nodes but this one."""
        return [name for name in self.running() if name != node.name]

    def restart_ended(self) -> None:
        """Start every node that does not run; nobody is waited for."""
        for node in self.nodes:
            if not node.is_running:
                self.start(node)

    def settle(self, console: Console) -> None:
        """Start what has ended and wait until all see each other alive.

        Raises:
            TookTooLong: They do not.
        """
        self.restart_ended()
        names = self.running()

        def agreed() -> bool:
            return self.observer.wait(lambda record: record.agree(names, names, ALIVE), 0.2)

        self.wait(console, f"all {len(names)} to see each other", agreed, SETTLE_S_MAX)

    def wait(self, console: Console, what: str, probe: Callable[[], bool], timeout_s: float) -> None:
        """Poll until the probe is true, showing what is waited for.

        Raises:
            TookTooLong: It was not in time, or a node ended by itself; with the end of its log.
        """
        begun = time.monotonic()
        while not probe():
            waited_s = time.monotonic() - begun
            console.progress(f"  {self.label}: {what} ({waited_s:.0f} s)", key=f"{self.label}{what}")
            ended = [node for node in self.nodes if node.process is not None and node.process.poll() is not None]
            if ended:
                tail = self.observer.tail(ended[0].name)
                raise TookTooLong(f"{self.label}: {ended[0].name} ended by itself, waiting for {what}:\n{tail}")
            if waited_s > timeout_s:
                raise TookTooLong(f"{self.label}: waited {timeout_s:.0f} s for {what}: {self.differences()}")
            time.sleep(0.02)

    def differences(self) -> str:
        """Say who sees whom otherwise than alive."""
        names = self.running()
        views = {name: dict(self.observer.record.view(name)) for name in names}
        odd = [(name, other) for name in names for other in names if other != name and views[name].get(other) != ALIVE]
        if not odd:
            return "all agree"
        said = [f"{name} sees {other} {views[name].get(other, 'not at all')}" for name, other in odd[:6]]
        observer, subject = odd[0]
        last = [s for s in self.observer.since(0.0) if (s.observer, s.subject) == odd[0]][-6:]
        now_s = time.monotonic()
        history = ", ".join(f"{each.state} {now_s - each.at_s:.1f} s ago" for each in last)
        return f"{', '.join(said)}{' ...' if len(odd) > 6 else ''}; {observer} of {subject}: {history or 'nothing'}"

    def stop(self) -> None:
        """End every process, gently first."""
        for node in self.nodes:
            if node.is_running:
                node.signal(signal.SIGCONT)
                node.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S_MAX
        for node in self.nodes:
            if node.process is not None:
                try:
                    node.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    node.kill()


class Ours(Side):
    """`frys-node` processes, HTTP on loopback inside their namespaces."""

    label = OURS
    parse = staticmethod(parse_ours)

    def command(self, node: Node) -> list[str]:
        """`start` for the first, `join` for the others; again after a crash, in the same directory."""
        data = node.home / "data"
        config = node.home / "frys.toml"
        config.write_text(f'[cluster]\nprofile = "{self.profile}"\n[system]\nlog_format = "json"\n', encoding="utf-8")
        line = [sys.executable, "-m", "frys_node", "start" if node.index == 1 else "join", "--name", node.name]
        line += ["--bind", f"{node.host}:{PORT}", "--http", f"127.0.0.1:{HTTP_PORT}"]
        line += ["--data-dir", str(data), "--config", str(config)]
        if node.index > 1:
            line += ["--seed", f"{self.nodes[0].host}:{PORT}", "--token-file", str(self._token)]
        return line

    @property
    def _token(self) -> Path:
        return self.nodes[0].home / "data" / "join-token"

    def is_seed_ready(self) -> bool:
        """The first node has written the token and answers."""
        if not self._token.exists():
            return False
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._get(self.nodes[0], "/readyz")[0] == 200
        return False

    def listens(self, node: Node) -> bool:
        """It has said that membership runs: the port is bound at the very start, before the certificate is there."""
        return self.observer.ask(lambda record: node.name in record.started)

    def is_quiet(self) -> bool:
        """Every node has its place on the ring, and no unit is on its way."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            ring = json.loads(self._get(self.nodes[0], "/v1/ring")[1])
            return bool(ring["phase"] == "stable" and len(ring["members"]) == len(self.nodes))
        return False

    def request_leave(self, node: Node) -> None:
        """Run `frys-node leave` beside the node, as an operator would."""
        self._run(node, "leave", "--data-dir", str(node.home / "data"))

    def send_event(self, node: Node, mark: str) -> bool:
        """Run `frys-node event NAME` beside the node."""
        if not self.has_events:
            return False
        self._run(node, "event", mark, "--data-dir", str(node.home / "data"))
        return True

    @functools.cached_property
    def has_events(self) -> bool:
        """True if the command line knows user events."""
        command = [sys.executable, "-m", "frys_node", "event", "--help"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def listen_for_events(self) -> None:
        """Follow `/v1/events` of every node."""
        for node in self.nodes:
            stream = namespaces.connect(node.name, "127.0.0.1", HTTP_PORT, HTTP_TIMEOUT_S)
            stream.sendall(b"GET /v1/events?types=user HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            self.observer.watch(node.name, stream.detach(), parse_mark, is_fresh=False)

    def _get(self, node: Node, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=HTTP_TIMEOUT_S)
        connection.sock = namespaces.connect(node.name, "127.0.0.1", HTTP_PORT, HTTP_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _run(self, node: Node, *arguments: str) -> None:
        # Forked off for good: it ends by its own time limit, and with the private network at the latest.
        line = namespaces.inside(node.name, sys.executable, "-m", "frys_node", *arguments)
        _beside(line)


class Serf(Side):
    """Agents of Debian's serf, encrypted like ours."""

    label = SERF
    parse = staticmethod(parse_serf)

    def __init__(self, folder: Path, subnet: Subnet, observer: Observer, profile: str) -> None:
        super().__init__(folder, subnet, observer, profile)
        self.program = find_serf()
        self._key = base64.b64encode(secrets.token_bytes(32)).decode()

    def command(self, node: Node) -> list[str]:
        """An agent that joins the first at once, as `frys-node join` does."""
        line = [self.program, "agent", f"-node={node.name}", f"-bind={node.host}:{PORT}", f"-profile={self.profile}"]
        line += [f"-encrypt={self._key}", "-log-level=info"]
        return line if node.index == 1 else [*line, f"-join={self.nodes[0].host}"]

    def request_leave(self, node: Node) -> None:
        """`serf leave`."""
        _beside(namespaces.inside(node.name, self.program, "leave"))

    def send_event(self, node: Node, mark: str) -> bool:
        """`serf event`, not coalesced: coalescing waits a second on purpose."""
        _beside(namespaces.inside(node.name, self.program, "event", "-coalesce=false", mark))
        return True


def _beside(line: Sequence[str]) -> None:
    """Start a short command that nobody waits for; its end is collected when the next one starts."""
    subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def find_serf() -> str:
    """Return serf's path: installed, or brought by `make peers`.

    Raises:
        Unavailable: It is not there.
    """
    brought = Path(".cache/peers/usr/bin/serf")
    for folder in (Path.cwd(), Path(frys_node.__file__).resolve().parents[1]):
        if (folder / brought).exists():
            return str(folder / brought)
    found = shutil.which("serf")
    if found is None:
        raise Unavailable("serf is not here", hint="run `make peers`, or measure ours alone with --side ours")
    return found


def versions(labels: Sequence[str]) -> dict[str, str]:
    """Return what is compared, by side, as exactly as can be found out."""
    found = {}
    if OURS in labels:
        said = _said([sys.executable, "-m", "frys_node", "--version"])
        code = ".".join(code_digest(module)[:12] for module in CODE)
        found[OURS] = " ".join(part for part in (said, commit(), f"code {code}") if part)
    if SERF in labels:
        program = Path(find_serf())
        package = program.parents[2] / "serf.version"
        exact = package.read_text().strip() if package.exists() else _said([str(program), "version"])
        found[SERF] = f"serf {exact}"
    return found


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip().partition("\n")[0]


class Arena:
    """Both clusters of one size, side by side, each in its own subnet."""

    def __init__(self, folder: Path, sides: Sequence[Side], observer: Observer, console: Console) -> None:
        self.folder = folder
        self.sides = {side.label: side for side in sides}
        self.observer = observer
        self.console = console

    def start(self, count: int, *, is_measured: bool = False) -> dict[str, dict[str, float]]:
        """Start both clusters and wait until all see each other; returns how long the joins took, by side."""
        taken = {}
        for label, side in self.sides.items():
            side.lay(count)
            side.start_seed(self.console)
            taken[label] = self._join_all(side, is_measured=is_measured)
        return taken

    def _join_all(self, side: Side, *, is_measured: bool) -> dict[str, float]:
        begun = time.monotonic()
        side.restart_ended()
        waiting = side.nodes[1:]
        listen_s = begun
        while waiting and time.monotonic() - begun < READY_S_MAX:
            quiet = [node for node in waiting if not side.listens(node)]
            if len(quiet) < len(waiting):
                waiting, listen_s = quiet, time.monotonic()
            time.sleep(LISTEN_POLL_S if is_measured else 10 * LISTEN_POLL_S)
            self.console.progress(f"  {side.label}: {len(waiting)} of {len(side.nodes)} do not listen yet")
        side.settle(self.console)
        names = side.running()
        firsts: dict[tuple[str, str], float] = {}
        contacts: dict[str, float] = {}
        for said in self.observer.since(begun):
            if said.state == ALIVE and said.subject != said.observer and said.observer in names:
                firsts.setdefault((said.observer, said.subject), said.at_s)
                contacts.setdefault(said.observer, said.at_s)
        known_s = max(firsts.values())
        return {
            "from_contact_s": known_s - max(contacts.values()),
            "from_listen_s": max(0.0, known_s - listen_s),
            "from_start_s": known_s - begun,
        }

    def stop(self) -> None:
        """End every process and remove the files."""
        for side in self.sides.values():
            side.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
