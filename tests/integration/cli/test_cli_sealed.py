"""`frys-node snapshot keygen`, `export`, `import`, `inspect`, in processes of their own, against the node's routes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from frys_node.base.types import UnitId
from frys_node.cli.sealed_file import SealedFile
from frys_node.saves import SnapshotRoutes
from frys_node.secure.kem import load_kem
from frys_node.secure.recipient import parse_key
from frys_node.secure.sealed import Sealer
from frys_node.testing.disk import FakeDisk
from frys_node.testing.saved import SavedNode, open_saved_cluster
from frys_node.testing.services import FakeHttp
from frys_node.transport.entropy import SystemEntropy
from snapshots.archive import FRONT
from snapshots.index import SavedSnapshot
from tests.integration.cli.cli_rig import CommandLine, command_line, run_bare

MARKER = b"a marker that nobody may see "
HELD = {UnitId("t/1"): MARKER * 9_000, UnitId("t/2"): random.Random(1).randbytes(90_000)}


class Rig(NamedTuple):
    """A node with the snapshot ``one``, the command line, a key, and a folder."""

    node: SavedNode
    shared: FakeDisk
    """What ``/shared`` is."""
    cli: CommandLine
    key: str
    folder: Path

    @property
    def to(self) -> str:
        """The recipient's file."""
        return f"{self.key}.pub"

    def path(self, name: str) -> str:
        """A path in the folder."""
        return str(self.folder / name)

    def read(self, name: str) -> bytes:
        """Return a file of the folder."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the folder."""
        (self.folder / name).write_bytes(data)

    def names(self) -> list[str]:
        """Names in the folder, hidden ones included."""
        return sorted(path.name for path in self.folder.iterdir())

    def mode(self, name: str) -> int:
        """Permissions of a file of the folder."""
        return (self.folder / name).stat().st_mode & 0o777

    def allow(self, name: str, mode: int) -> None:
        """Set them."""
        (self.folder / name).chmod(mode)


@asynccontextmanager
async def _rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        node, http = cluster["a"], FakeHttp()
        SnapshotRoutes(node.reception.desk).register(http)
        await node.desk.create("one")
        folder = tmp_path / "mine"
        folder.mkdir()
        made = await run_bare("snapshot", "keygen", "--out", str(folder / "key"))
        assert made.code == 0, made.err
        async with command_line(tmp_path / "node", http, "/v1/snapshots") as cli:
            yield Rig(node, cluster.shared, cli, str(folder / "key"), folder)


async def test_a_snapshot_goes_out_and_comes_back_from_the_command_line(tmp_path: Path) -> None:
    """Exported, told about with and without the key, imported into another place under another name, restored."""
    async with _rig(tmp_path) as rig:
        sealed = rig.path("one.sealed")
        out = (await rig.cli.run("snapshot", "export", "one", "--to", rig.to, "--out", sealed, "--json")).json()
        data = rig.read("one.sealed")
        assert (out["name"], out["size_bytes"], out["sha256"]) == ("one", len(data), hashlib.sha256(data).hexdigest())
        assert MARKER[:10] not in data
        assert (rig.mode("one.sealed"), rig.mode("key")) == (0o600, 0o600)
        assert rig.names() == ["key", "key.pub", "one.sealed"]

        told = (await run_bare("snapshot", "inspect", sealed, "--json")).json()
        assert told["recipients"] == out["recipients"]
        assert (told["is_proven"], "snapshot" in told, told["size_bytes"]) == (False, False, len(data))
        assert len(data) - 1_400 < told["content_bytes"] < len(data)
        proven = await run_bare("snapshot", "inspect", sealed, "--key", rig.key)
        assert (proven.code, "whole: snapshot one (node) of cluster frys, saved " in proven.out) == (0, True), proven
        body = (await run_bare("snapshot", "inspect", sealed, "--key", rig.key, "--json")).json()
        assert (body["is_proven"], body["snapshot"]["units"], body["snapshot"]["nodes"]) == (True, 2, ["A"])

        there = ("--store", "/shared/other")
        brought = await rig.cli.run("snapshot", "import", sealed, "--key", rig.key, "--name", "back", *there)
        assert brought.code == 0, brought.err
        assert brought.out.splitlines()[-1] == (
            "bring it back with: frys-node snapshot restore back --store /shared/other"
        )
        rig.node.units["t"].held = dict.fromkeys(HELD, b"")
        restored = await rig.cli.run("snapshot", "restore", "back", *there)
        assert (restored.code, rig.node.units["t"].held) == (0, HELD), restored.err
        again = await rig.cli.run("snapshot", "import", sealed, "--key", rig.key, "--name", "back", *there)
        assert (again.code, "choose another name with --name" in again.err) == (1, True)


async def test_a_wrong_key_and_a_damaged_file_change_nothing(tmp_path: Path) -> None:
    """Another key, a byte cut, a bit changed, something appended, another file: an exit code, a fix, no snapshot."""
    async with _rig(tmp_path) as rig:
        sealed, there = rig.path("one.sealed"), ("--store", "/shared/other")
        assert (await rig.cli.run("snapshot", "export", "one", "--to", rig.to, "--out", sealed)).code == 0
        other = rig.path("other")
        assert (await run_bare("snapshot", "keygen", "--out", other, "--provider", "pqcrypto")).code == 0
        data = rig.read("one.sealed")
        files = {
            "cut": (data[:-1], "security.sealed_damaged"),
            "cut-between": (data[: -(len(data) - 1_266) % 65_552 - 65_552], "snapshots.corrupt_export"),
            "bit": (data[:-100] + bytes([data[-100] ^ 1]) + data[-99:], "security.sealed_damaged"),
            "long": (data + b"x", "security.sealed_damaged"),
            "other-file": (b"PK\x03\x04" * 999, "security.not_sealed"),
            "empty": (b"", "security.sealed_cut"),
        }
        attempts = [(sealed, other, "security.sealed_key")]
        for name, (content, code) in files.items():
            rig.write(name, content)
            attempts.append((rig.path(name), rig.key, code))
        for path, key, code in attempts:
            for action in (("import", path, "--key", key, *there), ("inspect", path, "--key", key)):
                run = rig.cli.run if action[0] == "import" else run_bare
                done = await run("snapshot", *action)
                assert (done.code, f"[{code}" in done.err, "fix:" in done.err) == (1, True, True), (action, done)
        assert (await rig.cli.run("snapshot", "list", *there)).out == "there are no snapshots\n"
        assert rig.shared.list("_chunks") == []


async def test_a_file_that_is_changed_between_its_two_readings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another whole file for the same key, of another index or of the same one: nothing is visible, the fix is told."""
    async with _rig(tmp_path) as rig:
        sealed = rig.path("one.sealed")
        assert (await rig.cli.run("snapshot", "export", "one", "--to", rig.to, "--out", sealed)).code == 0
        checked = rig.read("one.sealed")
        with SealedFile(Path(sealed), parse_key(rig.read("key").decode())) as file:
            items = list(file.items("read"))
        rig.node.units["t"].held[UnitId("t/2")] += b"more"
        await rig.node.desk.create("two")
        path = rig.path("two.sealed")
        assert (await rig.cli.run("snapshot", "export", "two", "--to", rig.to, "--out", path)).code == 0
        index, bundle, *chunks = items
        assert len(chunks) > 1
        content = FRONT + b"".join(item.encode() for item in (index, bundle, *chunks[::-1]))
        sealer = Sealer([parse_key(rig.read("key").decode()).recipient], kem=load_kem(), entropy=SystemEntropy())
        others = {"another": rig.read("two.sealed"), "reordered": sealer.push(content) + sealer.finish()}
        real = rig.node.desk.list
        for name, other in others.items():
            rig.write("one.sealed", checked)

            async def swapped(place: str = "", other: bytes = other) -> tuple[list[SavedSnapshot], list[str]]:
                rig.write("one.sealed", other)
                return await real(place)

            # The command asks for the list after it has proven the file, and before it sends anything.
            monkeypatch.setattr(rig.node.desk, "list", swapped)
            there = ("--store", f"/shared/{name}")
            done = await rig.cli.run("snapshot", "import", sealed, "--key", rig.key, *there)
            monkeypatch.setattr(rig.node.desk, "list", real)
            assert (done.code, "was changed while it was read" in done.err, "fix:" in done.err) == (1, True, True), done
            assert (await rig.cli.run("snapshot", "list", *there)).out == "there are no snapshots\n"


async def test_keys_stay_out_of_arguments_and_with_their_owner(tmp_path: Path) -> None:
    """A key as an argument, a readable key file, a second keygen; standard input works; no message repeats the key."""
    async with _rig(tmp_path) as rig:
        sealed, text = rig.path("one.sealed"), rig.read("key").decode()
        secret = text.splitlines()[-1]
        assert (await rig.cli.run("snapshot", "export", "one", "--to", rig.to, "--out", sealed)).code == 0
        runs = [await run_bare("snapshot", "inspect", sealed, "--key", secret)]
        assert (runs[-1].code, "never an argument" in runs[-1].err) == (2, True)
        runs.append(await run_bare("snapshot", "inspect", sealed, "--key", "-", stdin=text.encode()))
        assert (runs[-1].code, "whole: snapshot one" in runs[-1].out) == (0, True)
        rig.allow("key", 0o644)
        runs.append(await run_bare("snapshot", "inspect", sealed, "--key", rig.key))
        assert (runs[-1].code, f"chmod 600 {rig.key}" in runs[-1].err) == (1, True)
        rig.allow("key", 0o600)
        runs.append(await run_bare("snapshot", "keygen", "--out", rig.key))
        assert (runs[-1].code, "is not replaced" in runs[-1].err) == (1, True)
        runs.append(await rig.cli.run("snapshot", "export", "one", "--to", rig.key, "--out", rig.path("x")))
        assert (runs[-1].code, "the file that ends in .pub" in runs[-1].err) == (1, True)
        runs.append(await run_bare("snapshot", "inspect", sealed, "--key", rig.to))
        assert (runs[-1].code, "without .pub" in runs[-1].err) == (1, True)
        runs.append(await run_bare("snapshot", "inspect", sealed, "--key", rig.path("none")))
        assert (runs[-1].code, "cannot read" in runs[-1].err) == (1, True)
        for run in runs:
            assert not any(secret[at : at + 12] in run.out + run.err for at in range(6, len(secret) - 12))
        assert rig.read("key").decode() == text


async def test_an_export_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """No such snapshot, a file that is there, a folder that is not, no recipient, a snapshot that is damaged."""
    async with _rig(tmp_path) as rig:
        rig.write("taken", b"mine")
        before = rig.names()
        for arguments, code, fix in (
            (("none", "--to", rig.to, "--out", rig.path("x")), 1, "snapshot list` shows them"),
            (("one", "--to", rig.to, "--out", rig.path("taken")), 1, "another name with --out"),
            (("one", "--to", rig.to, "--out", rig.path("no/x")), 1, "check the path"),
            (("one", "--to", "frysr1abc", "--out", rig.path("x")), 1, "copy it again"),
            (("one", "--to", rig.path("nobody"), "--out", rig.path("x")), 1, "check the path"),
            (("one", "--out", rig.path("x")), 2, "--to"),
        ):
            done = await rig.cli.run("snapshot", "export", *arguments)
            assert (done.code, fix in done.err) == (code, True), done
        folder = "snapshots/saved/_chunks"
        for chunk in rig.node.disk.list(folder):
            rig.node.disk.flip_bit(f"{folder}/{chunk}", 9)
        broken = await rig.cli.run("snapshot", "export", "one", "--to", rig.to, "--out", rig.path("x"))
        assert (broken.code, "frys-node snapshot verify one" in broken.err) == (1, True), broken
        assert rig.names() == before
        assert rig.read("taken") == b"mine"


async def test_an_export_can_go_into_a_pipe_and_one_that_breaks_is_a_failure(tmp_path: Path) -> None:
    """The bytes on standard output are the file, the report is beside; a reader that goes away is no success."""
    async with _rig(tmp_path) as rig:
        line = [sys.executable, "-m", "frys_node", "snapshot", "export", "one", "--to", rig.to, "--out", "-"]
        line += ["--data-dir", str(tmp_path / "node")]
        piped = await trio.run_process([*line, "--json"], capture_stdout=True, capture_stderr=True)
        rig.write("piped", piped.stdout)
        report = json.loads(piped.stderr)
        assert (report["size_bytes"], report["file"]) == (len(piped.stdout), "standard output")
        assert (await run_bare("snapshot", "inspect", rig.path("piped"), "--key", rig.key)).code == 0
        reader, writer = os.pipe()
        os.close(reader)
        broken = await trio.run_process(line, stdout=writer, capture_stderr=True, check=False)
        os.close(writer)
        assert (broken.returncode, b"cannot write standard output" in broken.stderr) == (1, True), broken
