"""The chapters of the demonstration, in the order told."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from frys_node.base.errors import FrysError, NodeUnreachable
from frys_node.demo.cluster import NodeProcess, free_port
from frys_node.demo.console import Console, DemoFailed
from frys_node.demo.digits import Digit, draw, load, nearest_exact, split
from frys_node.demo.strip import Strip
from frys_node.demo.tap import Tap
from frys_node.secure.observe_tls import CIPHER_AES_256_GCM_SHA384, GROUP_X25519MLKEM768, VERSION_TLS13

COLLECTION = "digits"
BATCH = 60
HELD_OUT_EVERY = 12
NEIGHBOURS = 5
PACE_S = 0.1
"""Pause in each batch of the second ingest, so that the kill finds it at work."""


class Story:
    """The cluster and what has happened to it."""

    def __init__(self, console: Console, home: Path) -> None:
        self.console = console
        self.home = home
        self.nodes: dict[str, NodeProcess] = {}
        self.tap: Tap | None = None
        self.planted = f"planted-{os.urandom(8).hex()}"
        """A tag of every node. Gossip carries it, so it would be seen on the wire if gossip could be read."""
        self.digits = load()
        self.stored, self.held_out = split(self.digits, HELD_OUT_EVERY)
        self._ran_log = home / "ran.log"
        self._strip: Strip | None = None

    def tell(self) -> None:
        """Run every chapter."""
        self.form()
        self.ingest()
        self.search()
        self.observe()
        self.crash()
        self.grow()
        self.shrink()

    def node(self, name: str) -> NodeProcess:
        """Return a node, making its directory when it is new."""
        if name not in self.nodes:
            advertise = None
            if name == "a":
                advertise = f"127.0.0.1:{free_port()}"
            workflows = Path(__file__).with_name("ingest.py")
            settings = {"FRYS_CLUSTER_TAGS": f"demo={self.planted}"}
            node = NodeProcess(name, self.home / name, workflows=workflows, advertise=advertise, settings=settings)
            self.nodes[name] = node
            if advertise is not None:
                self.tap = Tap(int(advertise.rpartition(":")[2]), int(node.bind.rpartition(":")[2]))
        return self.nodes[name]

    def _wait_ready(self, node: NodeProcess) -> None:
        def probe() -> bool:
            if not node.is_running:
                raise DemoFailed(f"node {node.name} ended while starting:\n{node.log_tail()}")
            return node.is_ready

        self.console.wait(f"node {node.name} ready", probe)

    def form(self) -> None:
        """Three processes become one cluster."""
        self.console.title("Three nodes form a cluster")
        first = self.node("a")
        begun = first.start()
        self._wait_ready(first)
        self.console.say(f"  frys-node start                     # a, http 127.0.0.1:{first.http_port}")
        assert self.tap is not None
        seed = f"127.0.0.1:{self.tap.port}"
        for name in "bc":
            node = self.node(name)
            node.start([seed])
            self.console.say(f"  frys-node join --seed {seed}  # {name}, http 127.0.0.1:{node.http_port}")
        for name in "bc":
            self._wait_ready(self.nodes[name])
        three = {"a": "alive", "b": "alive", "c": "alive"}
        self.console.wait("each sees three alive", lambda: all(n.statuses() == three for n in self.nodes.values()))
        self._settled(["a", "b", "c"])
        self.console.check(
            "cluster", True, f"3 nodes alive and on the ring, {time.monotonic() - begun:.1f} s from nothing"
        )

    def _settled(self, names: list[str], timeout_s: float = 40.0) -> None:
        """Wait until every running node has adopted a stable record with exactly these members."""

        def probe() -> bool:
            epochs = set()
            for name in names:
                topology = self.nodes[name].call("GET", "/v1/topology")
                if topology["phase"] != "stable" or not topology["settled"] or len(topology["members"]) != len(names):
                    return False
                epochs.add(topology["epoch"])
            return len(epochs) == 1

        self.console.wait(f"ring stable with {', '.join(names)}", probe, timeout_s)

    def _owner_of_run(self, run: str) -> str:
        owner: str = self.nodes["a"].call("GET", f"/v1/ring?run={run}")["owner"]["current"][0]
        return owner

    def _start_ingest(self, node: NodeProcess, run: str, pace_s: float) -> None:
        job = {
            "run": run,
            "collection": COLLECTION,
            "count": len(self.digits),
            "batch": BATCH,
            "held_out_every": HELD_OUT_EVERY,
            "pace_s": pace_s,
            "http_port": self.nodes["a"].http_port,
            "ran_log": str(self._ran_log),
        }
        body = {"workflow": {"namespace": "default", "name": "ingest", "version": "1"}, "input": job, "id": run}
        node.call("POST", "/v1/runs", body)

    def ingest(self) -> None:
        """A durable workflow loads the digits."""
        self.console.title("A durable workflow ingests 1,647 handwritten digits")
        b = self.node("b")
        b.call("PUT", f"/collections/{COLLECTION}", {"vectors": {"size": 64, "distance": "Euclid"}})
        begun = time.monotonic()
        self._start_ingest(b, "ingest-first", 0.0)
        run = self._wait_run(b, "ingest-first")
        count = b.call("POST", f"/collections/{COLLECTION}/points/count?consistency=quorum", {"exact": True})["result"][
            "count"
        ]
        batches = -(-len(self.digits) // BATCH)
        ok = run["status"] == "completed" and count == len(self.stored)
        spent = time.monotonic() - begun
        self.console.check(
            "ingest", ok, f"{count} points in {batches} durable steps, {spent:.1f} s, owner {run['owner']}"
        )

    def _wait_run(self, node: NodeProcess, run: str, timeout_s: float = 60.0) -> Any:
        def probe() -> Any:
            body = node.call("GET", f"/v1/runs/{run}")
            done = sum(task["status"] == "completed" for task in body["tasks"])
            self.console.progress(f"  run {run}: {body['status']}, {done} steps committed on {body['owner']}")
            return body if body["status"] in {"completed", "faulted", "cancelled", "stalled"} else None

        return self.console.wait(f"run {run}", probe, timeout_s)

    def search(self) -> None:
        """Another node answers; the answers are compared with exact search."""
        self.console.title("A different node finds their neighbours")
        c = self.nodes["c"]
        found_right = hits = 0
        shown: tuple[Digit, list[Digit]] | None = None
        begun = time.monotonic()
        for number, digit in enumerate(self.held_out):
            body = {"query": list(digit.pixels), "limit": NEIGHBOURS, "with_payload": True}
            points = c.call("POST", f"/collections/{COLLECTION}/points/query", body)["result"]["points"]
            ids = [point["id"] for point in points]
            labels = [point["payload"]["label"] for point in points]
            found_right += max(set(labels), key=labels.count) == digit.label
            hits += _hits(digit, ids, self.digits, nearest_exact(digit, self.stored, NEIGHBOURS))
            if shown is None and digit.label == 3:
                shown = digit, [self.digits[i] for i in ids]
            self.console.progress(f"  asked {number + 1} of {len(self.held_out)}")
        if shown is not None:
            self.console.say("  a held-out digit, and its neighbours as node c finds them:")
            for line in draw([shown[0], *shown[1]]):
                self.console.say("    " + line)
        accuracy = found_right / len(self.held_out)
        recall = hits / (len(self.held_out) * NEIGHBOURS)
        spent = (time.monotonic() - begun) / len(self.held_out) * 1e3
        self.console.check(
            "accuracy", accuracy >= 0.95, f"{accuracy:.1%} of {len(self.held_out)} held-out digits (k={NEIGHBOURS})"
        )
        self.console.check(
            "recall", recall >= 0.95, f"{recall:.1%} of exact neighbours, {spent:.1f} ms a query and check"
        )

    def observe(self) -> None:
        """What an observer of the wire sees."""
        assert self.tap is not None
        self.console.title("What the wire shows")
        tap = self.tap
        self.console.wait("the ServerHello of every connection", lambda: len(tap.hellos) == tap.answered)
        wanted = (VERSION_TLS13, CIPHER_AES_256_GCM_SHA384, GROUP_X25519MLKEM768)
        seen = {(hello.version, hello.cipher, hello.group) for hello in self.tap.hellos}
        text = ", ".join(f"version {v:#06x} cipher {c:#06x} group {g:#06x}" for v, c, g in sorted(seen))
        ok = seen == {wanted}
        self.console.check(
            "channel", ok, f"{len(self.tap.hellos)} ServerHellos: {text} (TLS 1.3, AES-256-GCM, X25519MLKEM768)"
        )
        is_told = all(self._tags(node) == {self.planted} for node in self.nodes.values())
        readable = sum(self.planted.encode() in payload for payload in self.tap.udp_payloads)
        text = (
            f"{len(self.tap.udp_payloads)} UDP payloads seen, {readable} show the tag that gossip brought to every node"
        )
        self.console.check("gossip", is_told and readable == 0 and len(self.tap.udp_payloads) > 0, text)

    def _tags(self, node: NodeProcess) -> set[str]:
        return {member["tags"].get("demo", "") for member in node.call("GET", "/v1/members")["members"]}

    def crash(self) -> None:
        """Kill -9 the owner of a running workflow; the rest goes on; it comes back and resumes."""
        self.console.title("kill -9 of the node that runs the workflow")
        run = next(name for name in (f"ingest-{n}" for n in range(1, 10_000)) if self._owner_of_run(name) != "a")
        victim = self.nodes[self._owner_of_run(run)]
        survivors = [node for node in self.nodes.values() if node is not victim]
        strip = self._strip = Strip(self.nodes["a"], COLLECTION, self.held_out, self.console)
        strip.start()
        self._start_ingest(self.nodes["a"], run, PACE_S)
        self.console.wait("the run is under way", lambda: self._committed(self.nodes["a"], run) >= 3)
        committed = self._committed(self.nodes["a"], run)
        killed = strip.killed_s = victim.kill()
        seen_dead = self._declared_dead(victim.name, survivors, killed)
        gap, failed = strip.gap_ms(killed, time.monotonic()), strip.failed(killed)
        self.console.say(f"  {strip.around_kill()} <- queries to a; {victim.name} was killed at the bar")
        self.console.check(
            "gap", gap < 2_000, f"longest silence of vector search {gap:.0f} ms; {failed} requests failed"
        )
        text = ", ".join(f"{name} after {spent:.1f} s" for name, spent in seen_dead.items())
        self.console.check("detection", len(seen_dead) == len(survivors), f"{victim.name} declared dead: {text}")
        self._still_answers(survivors, run, victim)
        begun = victim.start()
        self._wait_ready(victim)
        back = time.monotonic() - begun
        finished = self._wait_run(victim, run)
        strip.finish()
        self._check_resume(victim, run, finished, committed, back)
        four = self.console.wait("everybody alive again", self._all_alive)
        self.console.check("healed", four, "every node sees every node alive")

    def _check_resume(self, victim: NodeProcess, run: str, finished: Any, committed: int, back_s: float) -> None:
        """The run completed; a step that was committed before the kill never ran twice, and one that was not, once."""
        lines = self._ran_log.read_text().splitlines()
        bodies = Counter(line.removeprefix(run + " ") for line in lines if line.startswith(run + " "))
        firsts = [str(first) for first in range(0, len(self.digits), BATCH)]
        repeated = [first for first in firsts if bodies[first] > 1]
        broken = set(repeated) & set(firsts[:committed])
        ok = finished["status"] == "completed" and sorted(bodies) == sorted(firsts) and len(repeated) <= 1
        how = f"{committed} steps committed before the kill, {len(firsts)} in all; {len(broken)} committed and "
        how += f"{len(repeated) - len(broken)} uncommitted body run again"
        text = f"{victim.name} back in {back_s:.1f} s; {run} {finished['status']}: {how}"
        self.console.check("resume", ok and not broken, text)

    def _all_alive(self) -> bool:
        running = [node for node in self.nodes.values() if node.is_running]
        views = [node.statuses() for node in running]
        return all(view.get(node.name) == "alive" for view in views for node in running)

    def _committed(self, node: NodeProcess, run: str) -> int:
        try:
            body = node.call("GET", f"/v1/runs/{run}")
        except FrysError:
            return 0
        return sum(task["status"] == "completed" for task in body["tasks"])

    def _declared_dead(self, name: str, survivors: list[NodeProcess], killed: float) -> dict[str, float]:
        seen: dict[str, float] = {}

        def probe() -> bool:
            for node in survivors:
                if node.name not in seen and node.statuses().get(name) == "dead":
                    seen[node.name] = time.monotonic() - killed
            return len(seen) == len(survivors)

        self.console.wait(f"{name} declared dead by all", probe)
        return seen

    def _still_answers(self, survivors: list[NodeProcess], run: str, victim: NodeProcess) -> None:
        """Quorum writes, quorum reads and the cache go on with one of three dead; its run is said to wait for it."""
        answered = []
        for node in survivors:
            key = f"from-{node.name}"
            node.call("PUT", f"/v1/cache/demo/{key}?consistency=quorum", key.encode())
            other = next(n for n in survivors if n is not node)
            status, value = other.request("GET", f"/v1/cache/demo/{key}?consistency=quorum")
            count = node.call("POST", f"/collections/{COLLECTION}/points/count?consistency=quorum", {"exact": True})[
                "result"
            ]["count"]
            answered.append(status == 200 and value == key.encode() and count == len(self.stored))
        text = "cache writes and reads at quorum, and every point counted, at each survivor"
        self.console.check("service", all(answered), text)
        status, body = survivors[0].request("GET", f"/v1/runs/{run}")
        told = body["error"]["message"] if status >= 400 else "it answered"
        self.console.check("waiting", status == 503 and victim.name in told, f"{run} answers {status}: {told}")

    def grow(self) -> None:
        """A fourth node arrives and receives its shards by snapshot."""
        self.console.title("A fourth node joins; shards move to it by snapshot")
        d = self.node("d")
        assert self.tap is not None
        begun = d.start([f"127.0.0.1:{self.tap.port}"])
        self._wait_ready(d)
        seen: dict[str, Any] = {}

        def probe() -> bool:
            for move in d.call("GET", "/v1/moves")["moves"]:
                if "/" in move["unit"]:  # the cache's units come by messages, and are told of as one
                    seen[move["unit"]] = move
            total = sum(move["bytes_done"] for move in seen.values())
            self.console.progress(f"  {len(seen)} units, {total / 1024:.0f} KiB have arrived")
            ring = d.call("GET", "/v1/ring")
            return ring["phase"] == "stable" and "d" in {m["name"] for m in ring["members"]}

        self.console.wait("d holds its share", probe, 60.0)
        probe()
        total = sum(move["bytes_done"] for move in seen.values())
        vector_units = sum(unit.startswith("vector/") for unit in seen)
        spent = time.monotonic() - begun
        what = f"{len(seen)} units ({vector_units} vector shards)"
        text = f"{what}, {total / 1024:.0f} KiB by snapshot, {spent:.1f} s from start"
        self._settled(["a", "b", "c", "d"])
        count = d.call("POST", f"/collections/{COLLECTION}/points/count?consistency=quorum", {"exact": True})["result"][
            "count"
        ]
        self.console.check("join", vector_units > 0 and count == len(self.stored), f"{text}; d counts {count} points")

    def shrink(self) -> None:
        """Another node leaves for good; nothing is lost."""
        self.console.title("Another node leaves for good")
        names = [name for name in "bc" if self.nodes[name].is_running]
        leaver = self.nodes[names[-1]]
        begun = time.monotonic()
        self.console.say(f"  frys-node leave --data-dir {leaver.data_dir}")
        leaving = leaver.command_line("leave", "--data-dir", str(leaver.data_dir))

        rest = [node for node in self.nodes.values() if node is not leaver]
        seen: set[str] = set()

        def probe() -> bool:
            seen.update(node.statuses().get(leaver.name, "unknown") for node in rest)
            if leaver.is_running:
                try:
                    state = leaver.call("GET", "/v1/leave")["state"]
                    if state != "not leaving":  # the command may not have reached it yet
                        self.console.progress(f"  {leaver.name} is leaving: {state}")
                except NodeUnreachable:
                    self.console.progress(f"  {leaver.name} has closed its doors")
            return leaving.poll() is not None and not leaver.is_running

        self.console.wait(f"{leaver.name} has left", probe, 60.0)
        self._settled([node.name for node in rest])
        spent = time.monotonic() - begun
        status = self.console.wait(
            "its status is left", lambda: all(n.statuses().get(leaver.name) == "left" for n in rest)
        )
        counts = {
            n.call("POST", f"/collections/{COLLECTION}/points/count?consistency=quorum", {"exact": True})["result"][
                "count"
            ]
            for n in rest
        }
        ok = status and "dead" not in seen and leaving.returncode == 0 and counts == {len(self.stored)}
        how = "was called dead" if "dead" in seen else "never dead"
        text = f"{leaver.name} left in {spent:.1f} s ({how}), exit code {leaving.returncode}"
        self.console.check("leave", ok, f"{text}; points counted: {sorted(counts)}")

    def hand_over(self) -> None:
        """Take the observer out, which ends with this process: node a restarts under its own address."""
        self.console.title("The observer goes, node a is reached directly")
        assert self.tap is not None
        first = self.nodes["a"]
        self.console.progress("  stopping a")
        first.stop()
        self.tap.close()
        first.advertise = None
        first.start()
        self._wait_ready(first)

        def probe() -> bool:
            running = [node for node in self.nodes.values() if node.is_running]
            addresses = {
                member["address"]
                for node in running
                for member in node.call("GET", "/v1/members")["members"]
                if member["name"] == "a"
            }
            return self._all_alive() and addresses == {first.bind}

        self.console.check(
            "kept", self.console.wait("everybody reaches a", probe), f"every node reaches a at {first.bind}"
        )

    def show_logs(self) -> None:
        """Print the end of each node's log, after a failure."""
        for node in self.nodes.values():
            self.console.say(f"--- log of {node.name}\n{node.log_tail()}")

    def stop(self) -> None:
        """Stop everything that was started."""
        if self._strip is not None:
            self._strip.finish()
        codes = {}
        for name, node in reversed(self.nodes.items()):
            self.console.progress(f"  stopping {name}")
            codes[name] = node.stop()
        if self.tap is not None:
            self.tap.close()
        text = ", ".join(f"{name} {code}" for name, code in sorted(codes.items()))
        self.console.check("shutdown", set(codes.values()) == {0}, f"exit codes after SIGTERM: {text}")

    def say_what_next(self) -> None:
        """Tell the person what to try with a cluster that was kept."""
        alive = [node for node in self.nodes.values() if node.is_running]
        self.console.say("\nThe cluster is yours. Try:")
        for node in alive[:1]:
            self.console.say(f"  frys-node members --data-dir {node.data_dir}")
            self.console.say(f"  frys-node ring --data-dir {node.data_dir}")
            self.console.say(f"  curl -s http://127.0.0.1:{node.http_port}/collections/{COLLECTION}")
            self.console.say(
                f"  curl -X PUT --data-binary hello http://127.0.0.1:{node.http_port}/v1/cache/demo/greeting"
            )
        for node in alive:
            assert node.process is not None
            self.console.say(f"  kill -9 {node.process.pid}   # node {node.name}, http 127.0.0.1:{node.http_port}")
        pids = " ".join(str(node.process.pid) for node in alive if node.process is not None)
        self.console.say(f"  kill {pids}   # stop them all; the data is in {self.home}")


def _hits(query: Digit, found: list[int], digits: list[Digit], exact: list[int]) -> int:
    """Count found neighbours that are as near as the exact ones (ties may be broken either way)."""
    import math

    limit = math.dist(query.pixels, digits[exact[-1]].pixels) + 1e-9
    return sum(math.dist(query.pixels, digits[i].pixels) <= limit for i in found)
