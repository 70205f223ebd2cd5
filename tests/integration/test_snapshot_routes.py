"""The routes of saved snapshots under attack, by whoever has the admin token: a clear 4xx, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from frys_node.base.types import UnitId
from frys_node.saves import SnapshotRoutes
from frys_node.secure.kem import load_kem
from frys_node.secure.recipient import SealKey, format_recipient
from frys_node.testing.disk import FakeDisk
from frys_node.testing.saved import SavedNode, open_saved_cluster
from snapshots.archive import Kind, item_of
from snapshots.errors import CorruptManifest
from tests.integration.network.http_fixtures import TOKEN, Client, client, serving

ROUTES = ("", "/verify", "/restore", "/prune")

BODIES = (
    b"{",
    b"[]",
    b"null",
    b'"keep"',
    b"\xff\xfe",
    b'{"name":}',
    b'{"name":"keep","nam":1}',
    b'{"name":"keep"}{"name":"keep"}',
    b'{"name":"\\ud800"}',
    b"[" * 50_000,
)

NAMES = (
    *("", "..", ".", "../x", "../../identity", "a/b", "/etc/passwd", "..%2f..%2fx", "a\\b", "a\0b", "keep\n", " keep"),
    *("A", "é", "a b", "-keep", "_chunks", "_locks", "_snapshots", "x" * 64, "x" * 100_000, None, 5, [], {}, True),
)

WRONG: dict[str, tuple[Any, ...]] = {
    "store": (
        *(
            5,
            None,
            "relative",
            "../up",
            "/shared/../up",
            "/..",
            "/\0",
            "/shared\0",
            "/" + "a" * 256,
            "/" + "a/" * 5_000,
        ),
        *("http://x", "file:///etc", "s3://", "s3://X/y", "s3://bucket/../up", "s3://bucket/\0/..", "s3://bucket"),
    ),
    "units": (
        "t/1",
        5,
        [],
        [5],
        [""],
        ["nope"],
        ["t/999"],
        ["t/"],
        ["vector"],
        ["vector/x"],
        ["t/1\0"],
        ["a" * 50_000],
    ),
    "kinds": ("t", 5, [], [5], [""], ["x"], ["t", "x"], ["a" * 50_000]),
    "cluster": ("x", 1, None),
    "partial": ("x", 1, True),
    "replace": ("x", 1, None),
    "unknown": (1,),
}

PRUNES = (
    *(b'{"keep":-1}', b'{"keep":1.5}', b'{"keep":"1"}', b'{"keep":true}', b'{"keep":[]}', b'{"kep":1}'),
    *(b'{"older_than_s":-1}', b'{"older_than_s":"1"}', b'{"older_than_s":NaN}', b'{"older_than_s":Infinity}'),
    *(b'{"older_than_s":1e999}', b'{"older_than_s":1e308}', b'{"older_than_s":-1e308}', b'{"dry_run":1}'),
)


def _attacks() -> Iterator[tuple[str, str, bytes]]:
    """Yield method, target and body of requests that must all be refused."""
    for route in ROUTES:
        for body in BODIES:
            yield "POST", route, body
    for route in ("", "/verify", "/restore"):
        yield "POST", route, b""
        for name in NAMES:
            yield "POST", route, json.dumps({"name": name}).encode()
        for field, values in WRONG.items():
            for value in values:
                yield "POST", route, json.dumps({"name": "new" if route == "" else "keep", field: value}).encode()
    yield from _export_attacks()
    for body in PRUNES:
        yield "POST", "/prune", body
    for name in NAMES:
        if isinstance(name, str) and len(name) < 5_000:
            yield "DELETE", "/" + quote(name, safe=""), b""
    for target in ("/keep?stor=/shared", "/keep?store=%00", "/keep?store=..", "/%2e%2e", "/%ff", "/x?store=relative"):
        yield "DELETE", target, b""
    for target in ("?stor=/shared", "?store=relative", "?store=%2f%00", "?store=/a/../b", "?store=s3://b"):
        yield "GET", target, b""


def _export_attacks() -> Iterator[tuple[str, str, bytes]]:
    """Yield requests about sealed exports that must all be refused."""
    public = format_recipient(SealKey.of("cryptography", load_kem().generate()).recipient)
    for body in BODIES:
        yield "POST", "/export", body
    for name in NAMES:
        yield "POST", "/export", json.dumps({"name": name, "recipients": [public]}).encode()
    for recipients in (
        [],
        [""],
        [5],
        5,
        None,
        ["frysr1"],
        [public[:-1]],
        [public.upper()],
        [public] * 17,
        ["a" * 90_000],
    ):
        yield "POST", "/export", json.dumps({"name": "keep", "recipients": recipients}).encode()
    for value in WRONG["store"]:
        yield "POST", "/export", json.dumps({"name": "keep", "recipients": [public], "store": value}).encode()
    index = item_of(Kind.INDEX, b"{}").encode()
    chunk = item_of(Kind.CHUNK, b"stranger").encode()
    for body in (
        b"x",
        b"\x00" * 40,
        index,
        chunk + index,
        chunk[:-1],
        chunk + b"x",
        chunk[:20],
        b"\x03" + b"\xff" * 36,
    ):
        yield "POST", "/objects", body
    for target in ("/objects?stor=/shared", "/objects?store=..", "/objects?store=/a/../b", "/import?stor=x"):
        yield "POST", target, chunk
    named = b'{"name":"%s","node":"a","created_unix_ns":1,"units":[],"bundles":[],"format":%d}'
    for body in (*BODIES, b"", b"{}", named % (b"x", 1), named % (b"x", 3), named % (b"../x", 2)):
        yield "POST", "/import", body
    for name in NAMES:
        if isinstance(name, str) and name and len(name) < 5_000:
            yield "POST", f"/import?name={quote(name, safe='')}", named % (b"fresh", 2)
    unit = f'"bundles":["{"0" * 64}"]'.encode()
    yield "POST", "/import", (named % (b"fresh", 2)).replace(b'"bundles":[]', unit)


@asynccontextmanager
async def _attacked(tmp_path: Path) -> AsyncIterator[tuple[SavedNode, Client]]:
    """A node with the snapshot ``keep``, behind a real listener that wants a token."""
    held = {UnitId("t/1"): b"precious", UnitId("t/2"): b"x" * 20_000}
    async with (
        open_saved_cluster({"a": held}) as cluster,
        serving(tmp_path, token=True) as (_, http),
        client(http) as caller,
    ):
        SnapshotRoutes(cluster["a"].reception.desk).register(http)
        await cluster["a"].desk.create("keep")
        yield cluster["a"], caller


async def test_every_malformed_request_is_refused_clearly_and_changes_nothing(tmp_path: Path) -> None:
    """Bodies, types, names, places, units, kinds, numbers: 4xx with a code and a message, and every byte stands."""
    async with _attacked(tmp_path) as (node, caller):
        before = _files(node.disk)
        for method, target, body in _attacks():
            what = f"{method} {target[:80]} {body[:80]!r}"
            answer = await caller.get(
                f"/v1/snapshots{target}", f"Authorization: Bearer {TOKEN}", method=method, body=body
            )
            assert answer.status in (400, 404, 405), f"{what}: {answer.status} {answer.body[:200]!r}"
            error = answer.json()["error"]
            assert error["code"] != "http.internal", what
            assert error["message"], what
            assert len(answer.body) < 4_096 or len(body) > 10_000, what
        assert _files(node.disk) == before
        assert node.units["t"].held == {UnitId("t/1"): b"precious", UnitId("t/2"): b"x" * 20_000}
        assert (await node.desk.verify("keep")).problems == ()
        assert (await caller.get("/v1/snapshots")).status == 403


def _files(disk: FakeDisk) -> dict[str, bytes | None]:
    """Every file of the node's place; locks come and go."""
    folders = [f"snapshots/saved/{folder}" for folder in disk.list("snapshots/saved") if folder != "_locks"]
    return {f"{folder}/{name}": disk.read(f"{folder}/{name}") for folder in folders for name in disk.list(folder)}


@pytest.mark.parametrize("index", [b"{}", b"<html>", b'{"name":"web","format":1}'])
async def test_a_delete_takes_no_folder_of_somebody_else(index: bytes) -> None:
    """A folder with an index.json need not be a snapshot of format 1: what that never had stays."""
    async with open_saved_cluster({"a": {UnitId("t/1"): b"x"}}) as cluster:
        desk, disk = cluster["a"].desk, cluster.shared
        disk.write("web/index.json", index)
        disk.write("web/pages/one.html", b"precious")
        with pytest.raises(CorruptManifest):
            await desk.verify("web", "/shared")
        await desk.delete("web", "/shared")
        assert disk.read("web/pages/one.html") == b"precious"
        assert disk.list("web") == ["pages"]
