"""Two real nodes through a day's work, everything logged: no secret is anywhere but in the file that is its home.

A third comes by a pre-made token, is expelled, and its directory is taken away: no home is left for what it had.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from frys_node.demo.cluster import NodeProcess, free_port
from frys_node.secure.api_tokens import API_TOKENS_PATH
from frys_node.secure.keyring import KEYRING_PATH, EpochKey, Keyring
from frys_node.secure.recipient import parse_key
from frys_node.secure.stored import IDENTITY_PATH
from frys_node.secure.token import derive_key, format_token, parse_token
from frys_node.trust.issuer import TOKENS_PATH
from frys_node.trust.web_certificates import WEB_PATH
from tests.e2e.e2e_clusters import ring
from tests.e2e.secret_hunt import Hunt, forms_of
from tests.e2e.test_e2e_cluster import frys, wait

pytestmark = pytest.mark.slow

BEARER = "frysadmin.wrongbearerquetzalcoatl" + "a" * 30
STORE_SECRET = "objectstoresecretquetzalcoatl0123456789"
PREMADE = "frys0." + "premadeaxolotl" * 3


class Day:
    """A cluster of two, what was printed in it, and what must not have been."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.hunt = Hunt()
        self.said: list[str] = []
        self.settings = {
            "FRYS_SYSTEM_LOG_LEVEL": "debug",
            "XDG_STATE_HOME": str(home / "state"),
            "AWS_ACCESS_KEY_ID": "AKIAQUETZALCOATL",
            "AWS_SECRET_ACCESS_KEY": STORE_SECRET,
        }
        self.a = NodeProcess("alpha", home / "a", settings=self.settings | {"FRYS_TOKEN": PREMADE})
        self.a.http_host = "0.0.0.0"
        self.b_dir, self.c_dir = home / "b" / "data", home / "c" / "data"
        self.pids: dict[Path, int] = {}
        """Of nodes that were started in the background, by their data directories."""
        self.kept_keys: set[str] = set()
        """Gossip keys that are in use; those before them have no home any more."""
        self.learn_token("pre-made token", PREMADE)
        self.hunt.add("store credential", STORE_SECRET)
        self.hunt.add("wrong bearer", BEARER)

    def run(
        self, *arguments: str, stdin: str = "", at: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb for a node and keep what it says."""
        place = [] if at is None else ["--data-dir", str(at)]
        line = [sys.executable, "-m", "frys_node", *arguments, *place]
        done = subprocess.run(
            line,
            cwd=self.home,
            env=os.environ | self.settings | dict(env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        self.said.append(done.stdout + done.stderr)
        return done

    def join(self, name: str, data_dir: Path, token: str, **env: str) -> None:
        """Start another node in the background, its token through standard input."""
        port, web = free_port(), free_port()
        data_dir.parent.mkdir()
        done = self.run(
            *("join", "--seed", self.a.bind, "--token-file", "-", "--detach", "--json", "--name", name),
            *("--bind", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{web}"),
            stdin=token + "\n",
            at=data_dir,
            env=env,
        )
        assert done.returncode == 0, done.stderr
        self.pids[data_dir] = json.loads(done.stdout)["pid"]

    def end(self, data_dir: Path) -> None:
        """End a node of the background."""
        pid = self.pids.pop(data_dir, 0)
        if pid and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGTERM)
            wait("it is gone", lambda: not _is_running(pid))

    def stop(self) -> None:
        """End all nodes."""
        for data_dir in list(self.pids):
            self.end(data_dir)
        self.a.stop()

    def learn(self) -> None:
        """Look for everything that the nodes' own files hold by now."""
        self.kept_keys.clear()
        for name, data_dir in (("alpha", self.a.data_dir), ("beta", self.b_dir)):
            self.learn_identity(name, data_dir)
            for key in self.keys(data_dir):
                self.kept_keys.add(f"gossip key {key.epoch}")
                self.hunt.add(f"gossip key {key.epoch}", key.key)
        self._learn_key("beta's web key", json.loads((self.b_dir / WEB_PATH).read_bytes())["key"])
        self.hunt.add("admin token", (self.a.data_dir / "admin-token").read_text().strip().partition(".")[2])
        self.learn_token("join token", (self.a.data_dir / "join-token").read_text().strip())

    @staticmethod
    def keys(data_dir: Path) -> tuple[EpochKey, ...]:
        """Return the gossip keys that a node has stored."""
        return Keyring.decode((data_dir / KEYRING_PATH).read_bytes()).keys

    def learn_identity(self, name: str, data_dir: Path) -> None:
        """Look for the keys in a node's identity."""
        stored = json.loads((data_dir / IDENTITY_PATH).read_bytes())
        for what in ("key", "ca_key"):
            if stored.get(what):
                self._learn_key(f"{name}'s {what}", stored[what])

    def _learn_key(self, name: str, pem: str) -> None:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
        raw, plain = serialization.Encoding.Raw, serialization.PrivateFormat.Raw
        self.hunt.add(name, key.private_bytes(raw, plain, serialization.NoEncryption()))
        self.hunt.add(f"{name} as PEM", "".join(pem.splitlines()[1:-1]))

    def learn_token(self, name: str, text: str) -> None:
        """Look for a token's secret, and for the key that the issuer keeps of it."""
        token = parse_token(text)
        self.hunt.add(name, token.secret)
        self.hunt.add(f"{name}'s proof key", derive_key(token.secret))

    def homes(self) -> dict[str, list[str]]:
        """Return which secrets may be in which file."""
        names = self.hunt.names
        return {
            IDENTITY_PATH: [name for name in names if re.match(r"(alpha|beta)'s (ca_)?key", name)],
            KEYRING_PATH: sorted(self.kept_keys),
            WEB_PATH: ["beta's web key", "beta's web key as PEM"],
            TOKENS_PATH: ["join token's proof key", "pre-made token's proof key"],
            "admin-token": ["admin token"],
            "join-token": ["join token"],
            "backup.key": ["export key", "export key as text"],
        }


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """The cluster at work, started by a user whose umask hides nothing."""
    made = Day(tmp_path_factory.mktemp("secrets"))
    umask = os.umask(0)
    try:
        made.a.start()
        wait("alpha is ready", lambda: made.a.is_ready)
        made.a.admin_token = (made.a.data_dir / "admin-token").read_text().strip()
        _work(made)
        _change_authority(made)
        made.learn()
        _snapshots(made)
        _lose_a_node(made)
        yield made
    finally:
        made.stop()
        os.umask(umask)


def _work(day: Day) -> None:
    """What people do, right and wrong."""
    a = day.a
    created = frys("token", "create", "--uses", "2", "--data-dir", str(a.data_dir), cwd=day.home).stdout.strip()
    day.learn_token("created join token", created)
    token = parse_token(created)
    assert token.cluster is not None
    assert token.ca_hash is not None
    day.learn_token("unknown pre-made token", "frys0." + "quetzalcoatl" * 3)
    unknown = format_token(token.cluster, token.ca_hash, "00000000", b"quetzalcoatl" * 2 + b"12345678")
    day.learn_token("unknown join token", unknown)
    mistyped = created[:-3] + ("aaa" if created[-3:] != "aaa" else "bbb")
    wrong = (
        (unknown, "security.token_unknown"),
        (mistyped, "security.token_invalid"),
        (created[:-20], "security.token_invalid"),
        ("frys0." + "short", "security.token_invalid"),
        ("frys0." + "quetzalcoatl" * 3, "security.token_unknown"),
    )
    for text, code in wrong:
        bind, web = (f"127.0.0.1:{free_port()}" for _ in range(2))
        refused = day.run(
            *("join", "--seed", a.bind, "--token-file", "-", "--bind", bind, "--http", web),
            stdin=text + "\n",
            at=day.home / "never",
        )
        assert refused.returncode == 1
        assert f"[{code}]" in refused.stderr, refused.stderr
    day.join("beta", day.b_dir, created, FRYS_PLUGINS_NETWORK_TLS="cluster", FRYS_PLUGINS_NETWORK_TLS_CLASSICAL="true")
    wait("both see both", lambda: list(a.statuses().values()) == ["alive", "alive"])
    wait("a ring of two", lambda: len(ring(a)) == 2)
    a.call("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
    a.call("PUT", "/collections/c/points?wait=true", {"points": [{"id": 1, "vector": [1.0, 2.0]}]})
    a.call("PUT", "/v1/cache/default/key", b"kept")
    _use_api_token(day)
    right, a.admin_token = a.admin_token, BEARER
    for method, path in (("GET", "/v1/members"), ("POST", "/v1/tokens"), ("GET", "/v1/config"), ("GET", "/nothing")):
        status, body = a.request(method, path)
        assert status in (401, 404)
        day.said.append(str(body))
    a.admin_token = right
    for path in ("/v1/config", "/v1/tokens", "/v1/keys", "/v1/members", "/metrics", "/v1/snapshots", "/nothing"):
        day.said.append(str(a.request("GET", path)[1]))
    for verb in ("status", "members", "ring", "reachability", "rtt"):
        for extra in ((), ("--json",)):
            day.run(verb, *extra, at=a.data_dir)
    for line in (
        "config --origin",
        "config --json",
        "token list",
        "keys list",
        "keys rotate",
        "why beta",
        "issuer show",
    ):
        day.run(*line.split(), at=a.data_dir)


def _change_authority(day: Day) -> None:
    """Another authority follows: what the one before had for secrets is nowhere from then on."""
    stored = json.loads((day.a.data_dir / IDENTITY_PATH).read_bytes())
    day._learn_key("the replaced authority's key", stored["ca_key"])
    day.learn_token("replaced join token", (day.a.data_dir / "join-token").read_text().strip())
    assert day.run("ca", "rotate", at=day.b_dir).returncode == 0, day.said[-1]
    assert json.loads((day.a.data_dir / IDENTITY_PATH).read_bytes())["ca_key"] != stored["ca_key"]
    for line in ("ca", "ca export", "token list", "status --security --json"):
        assert day.run(*line.split(), at=day.b_dir).returncode == 0, day.said[-1]


def _use_api_token(day: Day) -> None:
    """Made, shown where it is right and where it is not, revoked, shown again."""
    a, right = day.a, day.a.admin_token
    made = json.loads(
        frys(
            *("token", "create", "--role", "read", "--namespace", "default", "--json"),
            *("--data-dir", str(a.data_dir)),
            cwd=day.home,
        ).stdout
    )
    secret = made["token"].rpartition("_")[2]
    day.hunt.add("API token", base64.b32decode(secret.upper() + "===="))
    day.hunt.add("API token as text", secret)
    a.admin_token = made["token"]
    asked = (("GET", "/v1/cache/default/key", 200), ("PUT", "/v1/cache/default/key", 403), ("GET", "/v1/config", 403))
    for method, path, wanted in asked:
        status, body = a.request(method, path, b"x" if method == "PUT" else None)
        assert status == wanted
        day.said.append(str(body))
    assert day.run("token", "revoke", made["id"], at=day.b_dir).returncode == 0
    status, body = a.request("GET", "/v1/cache/default/key")
    assert status == 401
    day.said.append(str(body))
    a.admin_token = right


def _snapshots(day: Day) -> None:
    """Saved, exported, opened, and asked for wrongly."""
    place, at = str(day.home / "place"), day.a.data_dir
    day.run("snapshot", "keygen", "--out", "backup.key", "--json")
    text = (day.home / "backup.key").read_text()
    day.hunt.add("export key", parse_key(text).private)
    day.hunt.add("export key as text", text.splitlines()[-1][1_000:])
    for line in (
        f"snapshot create one --store {place}",
        f"snapshot verify one --store {place}",
        f"snapshot list --json --store {place}",
        f"snapshot export one --to backup.key.pub --store {place}",
        f"snapshot import one.sealed --key backup.key --name two --store {place}",
        f"snapshot restore two --store {place}",
    ):
        assert day.run(*line.split(), at=at).returncode == 0, day.said[-1]
    assert day.run("snapshot", "inspect", "one.sealed", "--key", "-", stdin=text).returncode == 0
    assert day.run("snapshot", "inspect", "one.sealed", "--key", "-", stdin=text[:-9]).returncode == 1
    assert day.run("snapshot", "list", "--store", "s3://bucket/x", at=at).returncode != 0


def _lose_a_node(day: Day) -> None:
    """A node comes by the pre-made token and is expelled; what it had is for nobody, and its directory goes."""
    a = day.a
    day.join("gamma", day.c_dir, PREMADE)
    wait("gamma is a member", lambda: a.statuses().get("gamma") == "alive")
    wait("a ring of three", lambda: len(ring(a)) == 3)
    day.learn_identity("gamma", day.c_dir)
    for key in day.keys(day.c_dir):
        day.hunt.add(f"gossip key {key.epoch}", key.key)
    assert day.run("node", "revoke", "gamma", "--yes", at=a.data_dir).returncode == 0, day.said[-1]
    wait("gamma says so", lambda: "expelled" in day.run("status", at=day.c_dir).stdout)
    for line in ("status --security --json", "members", "why gamma", "token list"):
        for data_dir in (day.b_dir, day.c_dir):
            day.run(*line.split(), at=data_dir)
    day.end(day.c_dir)
    day.said.append((day.c_dir / "node.log").read_text())
    assert "channel.expelled" in day.said[-1]
    shutil.rmtree(day.c_dir.parent)
    for data_dir in (a.data_dir, day.b_dir):
        wait("what gamma knew is deleted", lambda at=data_dir: {key.expelled for key in day.keys(at)} == {1})


def test_no_secret_is_anywhere_but_in_its_own_file(day: Day) -> None:
    """Logs at debug, snapshots, exports, every other file, what verbs print and HTTP answers, and all argv."""
    assert day.a.process is not None
    day.a.process.send_signal(signal.SIGHUP)
    _talk_nonsense(day)
    day.learn()
    assert len(day.hunt.names) >= 25
    assert {"pre-made token", "beta's web key", "gamma's key"} <= set(day.hunt.names)
    for line in _command_lines():
        assert day.hunt.found_in(line) == [], line
    for said in day.said:
        assert day.hunt.found_in(said) == [], said[:2_000]
    day.stop()
    assert day.hunt.found_under(day.home, day.homes()) == []
    logs = (day.home / "a" / "log").read_text() + (day.b_dir / "node.log").read_text()
    assert '"level": "debug"' in logs or " debug " in logs
    # The judge can see: every home does hold what it may.
    for end, names in day.homes().items():
        homes = [path for path in day.home.rglob("*") if str(path).endswith(end)]
        held = {name for path in homes for name in day.hunt.found_in(path.read_bytes())}
        assert held == set(names), end


def _talk_nonsense(day: Day) -> None:
    """Send what no client sends, with a secret in it, to both ports: what is refused must not be repeated."""
    for port in (day.a.http_port, int(day.a.bind.rpartition(":")[2])):
        for text in (f"AUTH {BEARER}\r\n", f"GET /{BEARER} HTTP/1.1\r\nAuthorization Bearer {BEARER}\r\n\r\n", BEARER):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
                peer.sendall(text.encode())
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65_536):
                    continue


def _command_lines() -> list[bytes]:
    """The command lines of every process of this machine, with that of each thread's program."""
    found: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    assert any(b"frys_node" in line for line in found)
    return found


def test_every_file_of_a_node_is_its_users_alone_whatever_the_umask(day: Day) -> None:
    """Files and sockets 0600, directories 0700, in both data directories and in the state that finds them."""
    wrong: list[str] = []
    for root in (day.a.data_dir, day.b_dir, day.home / "state" / "frys"):
        for path in [root, *root.rglob("*")]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if not path.is_symlink() and mode != (0o700 if path.is_dir() else 0o600):
                wrong.append(f"{path.relative_to(day.home)} {mode:04o}")
    assert wrong == [], wrong


def test_a_secret_that_others_can_read_keeps_a_node_from_starting(day: Day) -> None:
    """Each of them: the error names the file and the chmod; put right, the node starts and is who it was."""
    day.stop()
    for name in (IDENTITY_PATH, KEYRING_PATH, TOKENS_PATH, API_TOKENS_PATH, "admin-token"):
        path = day.a.data_dir / name
        for mode in (0o604, 0o640):
            path.chmod(mode)
            day.a.start()
            assert day.a.process is not None
            assert day.a.process.wait(60) == 1, name
            tail = day.a.log_tail(6)
            assert f"chmod 600 {name}" in tail, tail
            assert "security.permissions" in tail, tail
        path.chmod(0o600)
    day.a.start()
    wait("alpha is ready again", lambda: day.a.is_ready)


def test_a_directory_that_others_can_write_keeps_a_node_from_starting(day: Day) -> None:
    """It names the directory and the chmod; one that others could only read is closed, and that is said."""
    day.stop()
    root = day.a.data_dir
    root.chmod(0o777)
    refused = day.run("start", at=root)
    assert refused.returncode == 1
    assert f"chmod 700 {root}" in refused.stderr
    assert "storage.exposed" in refused.stderr
    root.chmod(0o755)
    day.a.start()
    wait("alpha is ready with its directory closed", lambda: day.a.is_ready)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert "was open to others (mode 0755)" in day.a.log_tail(40)


def test_the_hunt_finds_every_form() -> None:
    """A judge that never objects proves nothing: each form, alone and in the middle of other text, is found."""
    secret = bytes(range(7, 47))
    hunt = Hunt()
    hunt.add("secret", secret)
    forms = [form for form in forms_of(secret) if len(form) >= 16]
    assert len(set(forms)) >= 12
    for form in forms:
        assert hunt.found_in(b"before " + form + b" after") == ["secret"]
    for shift in range(7):
        inside = base64.b64encode(bytes(range(200, 200 + shift)) + secret + b"tail")
        assert hunt.found_in(inside) == ["secret"]
    for quotes in (b"", b"'", b'"'):
        line = json.dumps({"event": "x", "key": quotes + secret + quotes}, default=str)
        assert hunt.found_in(line) == ["secret"]
    assert hunt.found_in(msgspec.msgpack.encode({"key": secret})) == ["secret"]
    assert hunt.found_in(secret[:-1]) == []
