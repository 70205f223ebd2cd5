"""Saved snapshots in an object store: the port's promises, over HTTP against a server that checks signatures."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import AlreadyExists, ConfigError, FrysError, StorageError, UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.secure.errors import UnsafePermissions
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.saved import ByteUnits, MemoryObjects, open_saved_cluster
from frys_node.transport.executor import ThreadExecutor
from frys_node.transport.named_files import read_named_file
from snapshots import s3
from snapshots.config import SnapshotsConfig
from snapshots.errors import CorruptChunk, NoBucket, NoStoreLibrary, StoreRefused, StoreUnreachable
from snapshots.library import Library
from snapshots.objects import OBJECT_BYTES_MAX, DirectoryObjects, Objects
from snapshots.places import Places
from snapshots.s3 import S3Location, S3Objects
from tests.integration.s3_rig import PYTHON, RunningStore, running_store


@pytest.fixture(scope="module")
def store() -> Iterator[RunningStore]:
    """A server on loopback, for the tests of this file."""
    if not PYTHON.exists():
        assert not os.environ.get("CI"), "CI runs .ci/s3 before the tests"
        pytest.skip("no object store here: run .ci/s3 (or make s3) once")
    with running_store() as running:
        yield running


def _location(store: RunningStore, prefix: str, **changes: str) -> S3Location:
    settings = {
        "bucket": store.bucket,
        "endpoint": store.endpoint,
        "access_key": store.access_key,
        "secret_key": store.secret_key,
        "prefix": prefix,
    }
    return S3Location(**(settings | changes))  # type: ignore[arg-type]


def _objects(store: RunningStore, prefix: str, **changes: str) -> S3Objects:
    return S3Objects(_location(store, prefix, **changes), ThreadExecutor(8), retries_max=1)


@pytest.fixture(params=["memory", "directory", "s3"])
def objects(request: pytest.FixtureRequest) -> Objects:
    """A place of each kind with nothing in it."""
    if request.param == "memory":
        return MemoryObjects()
    if request.param == "directory":
        return DirectoryObjects(FakeDisk(), InlineExecutor(), place="d", directory="d")
    return _objects(request.getfixturevalue("store"), f"port/{request.node.name}")


async def test_objects_are_whole_and_replaced_whole(objects: Objects) -> None:
    """What was put is got; a missing object is None; a removed one is gone, and removing it again is no error."""
    assert await objects.get("f/none") is None
    await objects.put("f/a", b"first and longer")
    await objects.put("f/a", b"second")
    await objects.put("f/empty", b"")
    assert (await objects.get("f/a"), await objects.get("f/empty")) == (b"second", b"")
    assert await objects.list("f") == {"a": 6, "empty": 0}
    assert await objects.list("other") == {}
    await objects.remove(["f/a", "f/never"])
    assert await objects.list("f") == {"empty": 0}
    with pytest.raises(UsageError):
        await objects.put("f/huge", bytes(OBJECT_BYTES_MAX + 1))


async def test_one_of_many_writers_creates_a_name(objects: Objects) -> None:
    """All at once; exactly one is told True, and its bytes stay."""
    told: list[int] = []

    async def write(number: int) -> None:
        if await objects.create("f/name", b"writer %d" % number):
            told.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(write, number)
    assert len(told) == 1
    assert await objects.get("f/name") == b"writer %d" % told[0]


def _library(objects: Objects, held: dict[UnitId, bytes], node: str = "a") -> Library:
    return Library(
        objects,
        executor=InlineExecutor(),
        clock=FakeClock(),
        providers={"t": ByteUnits(dict(held))},
        node=NodeId(node),
        process="1",
    )


def _held() -> dict[UnitId, bytes]:
    rng = random.Random(5)
    return {UnitId("t/1"): b"small", UnitId("t/2"): rng.randbytes(450_000), UnitId("t/3"): rng.randbytes(100_000)}


async def test_a_snapshot_lives_in_a_bucket(store: RunningStore) -> None:
    """Save, save again for nothing, verify, list, prune: the whole life, signed, over HTTP."""
    library = _library(_objects(store, "life"), _held())
    first = await library.create("one")
    second = await library.create("two")
    assert (second.new_bytes, second.reused_bytes) == (0, first.new_bytes)
    assert await library.shelf.names() == ["one", "two"]
    assert (await library.verify("two")).problems == ()
    with pytest.raises(AlreadyExists):
        await library.create("two")
    report = await library.prune(keep=0)
    assert (len(report.deleted), report.chunks, report.waits_for) == (2, 6, "")
    for folder in ("_chunks", "_bundles", "_snapshots", "_locks"):
        assert await library.shelf.objects.list(folder) == {}


async def test_of_two_nodes_that_save_under_one_name_in_a_bucket_one_wins(store: RunningStore) -> None:
    """The condition is the store's: the loser is told, and the winner's snapshot is whole."""
    results: list[str] = []

    async def save(node: str) -> None:
        try:
            await _library(_objects(store, "race"), {UnitId("t/1"): node.encode() * 9_000}, node).create("s")
            results.append(node)
        except AlreadyExists:
            results.append("told")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save, "a")
        nursery.start_soon(save, "b")
    assert sorted(results) in (["a", "told"], ["b", "told"])
    library = _library(_objects(store, "race"), {})
    assert (await library.verify("s")).problems == ()
    assert (await library.shelf.get("s")).node == min(results)


async def test_a_cluster_is_saved_into_a_bucket_and_restored_by_another(store: RunningStore) -> None:
    """Each node writes its share with its own credentials; a cluster of one reads all of it."""
    config = SnapshotsConfig(store=f"s3://{store.bucket}/cluster", s3_endpoint=store.endpoint)
    environ = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}
    held = {"a": {UnitId("workflow/0"): b"a" * 50_000}, "b": {UnitId("workflow/1"): b"b" * 50_000}}
    kinds = ("workflow",)
    async with open_saved_cluster(held, kinds=kinds, partitions=2, config=config, environ=environ) as cluster:
        cluster.ring.members = {unit: (NodeId(node),) for node, units in held.items() for unit in units}
        saved = await cluster["b"].desk.create("all", is_cluster=True)
        assert [(one.unit, one.node) for one in saved.units] == [("workflow/0", "a"), ("workflow/1", "b")]
    empty = {"n": {UnitId("workflow/0"): b"", UnitId("workflow/1"): b""}}
    async with open_saved_cluster(empty, kinds=kinds, partitions=2, config=config, environ=environ) as cluster:
        assert [one.name for one in (await cluster["n"].desk.list())[0]] == ["all"]
        report = await cluster["n"].desk.restore("all")
        assert (report.units, report.failed) == (2, ())
        assert cluster["n"].units["workflow"].held == held["a"] | held["b"]


@pytest.mark.slow
async def test_a_listing_of_many_objects_is_read_page_by_page(store: RunningStore) -> None:
    """More objects than the thousand of one answer are all there, and all removed."""
    objects = _objects(store, "many")
    async with trio.open_nursery() as nursery:
        for number in range(1_005):
            nursery.start_soon(objects.put, f"f/{number:04}", b"x")
    assert list(await objects.list("f")) == [f"{number:04}" for number in range(1_005)]
    await objects.remove([f"f/{number:04}" for number in range(1_005)])
    assert await objects.list("f") == {}


WRONG: dict[str, tuple[dict[str, str], type[FrysError], str]] = {
    "secret": ({"secret_key": "wrong"}, StoreRefused, "the secret key is not the one of that access key"),
    "key": ({"access_key": "AKIAUNKNOWN"}, StoreRefused, "the access key is unknown there"),
    "bucket": ({"bucket": "no-such-bucket"}, NoBucket, "make the bucket first"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_what_is_wrong_with_a_store_is_said_with_its_fix(store: RunningStore, wrong: str) -> None:
    """Each request of each kind tells the same cause, not a stack of the library's words."""
    changes, error, fix = WRONG[wrong]
    objects = _objects(store, "wrong", **changes)
    library = _library(objects, _held())
    for request in (
        lambda: objects.get("f/a"),
        lambda: objects.put("f/a", b"x"),
        lambda: objects.create("f/a", b"x"),
        lambda: objects.list("f"),
        lambda: library.create("s"),
        library.shelf.list,
    ):
        with pytest.raises(error) as caught:
            await request()
        assert fix in caught.value.hint
        assert len(caught.value.message) < 250
        assert "wrong" not in caught.value.message.replace("wrong/", "")


async def test_a_store_that_is_down_is_said_to_be_down() -> None:
    """The endpoint is named, the wait is bounded, and the error may be tried again."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        location = S3Location(bucket="bucket", endpoint=endpoint, access_key="a", secret_key="b")
        objects = S3Objects(location, ThreadExecutor(2), retries_max=1)
        with pytest.raises(StoreUnreachable, match="cannot list '_snapshots'") as caught:
            await _library(objects, _held()).shelf.list()
    assert endpoint in caught.value.hint
    assert caught.value.retryable


async def test_half_an_object_is_found_and_mended(store: RunningStore) -> None:
    """A store that kept half of an upload: verify names the chunk, a restore refuses, the next save writes it again."""
    objects = _objects(store, "half")
    library = _library(objects, _held())
    index = await library.create("s")
    name, size = next(iter((await objects.list("_chunks")).items()))
    data = await objects.get(f"_chunks/{name}")
    assert data is not None
    await objects.put(f"_chunks/{name}", data[: size // 2])
    assert [name[:16] in problem for problem in (await library.verify("s")).problems] == [True]
    contents = await library.shelf.open(index)
    manifests = [await contents.manifest(saved) for saved in index.units]
    (half,) = [chunk for manifest in manifests for chunk in manifest.chunks if chunk.digest.hex() == name]
    with pytest.raises(CorruptChunk):
        await contents.chunk(half)
    assert (await library.create("again")).new_bytes == size
    assert (await library.verify("s")).problems == ()


def _places(environ: dict[str, str], files: FakeDisk | None = None) -> Places:
    disk = files or FakeDisk()

    def read(path: str, _: int) -> tuple[bytes, int] | None:
        data = disk.read(path.rpartition("/")[2])
        return None if data is None else (data, 0o600)

    return Places(disk=disk, executor=InlineExecutor(), environ=environ, open_directory=lambda _: disk, read_file=read)


KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def test_credentials_come_from_the_environment_or_a_file() -> None:
    """A file that is named goes first, as lines or as an AWS profile; without any the error says where to put them."""
    disk = FakeDisk()
    disk.write("aws", b"# a comment\n[default]\naws_access_key_id = filed\naws_secret_access_key = 's3cret'\n")
    named = SnapshotsConfig(s3_credentials_file="/etc/aws", s3_endpoint="http://store:9000", s3_region="eu")
    found = _places(KEYS, disk).locate("s3://bucket/a/b/", named)
    assert (found.access_key, found.secret_key) == ("filed", "s3cret")
    assert (found.bucket, found.prefix, found.endpoint, found.region) == ("bucket", "a/b", "http://store:9000", "eu")
    plain = _places(KEYS | {"AWS_REGION": "r", "AWS_ENDPOINT_URL": "http://e"}).locate("s3://bucket", SnapshotsConfig())
    assert (plain.access_key, plain.region, plain.endpoint, plain.place) == ("key", "r", "http://e", "s3://bucket")
    with pytest.raises(ConfigError, match="there are no credentials"):
        _places({}).locate("s3://bucket", SnapshotsConfig())
    with pytest.raises(ConfigError, match="credentials file /no/such is missing"):
        _places({}).locate("s3://bucket", SnapshotsConfig(s3_credentials_file="/no/such"))
    for bad in ({"store": "relative"}, {"s3_endpoint": "host:9000"}):
        with pytest.raises(ConfigError):
            SnapshotsConfig(**bad)


def test_a_node_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named; nothing else of snapshots needs it."""

    def missing(name: str) -> Callable[[], None]:
        raise ImportError(name)

    monkeypatch.setattr(s3.importlib, "import_module", missing)
    with pytest.raises(NoStoreLibrary) as caught:
        _places(KEYS).open("s3://bucket", SnapshotsConfig())
    assert "frys-node[s3]" in caught.value.hint
    assert _places(KEYS).open("", SnapshotsConfig()).place.endswith("snapshots/saved")


def _real_places() -> Places:
    disk = FakeDisk()
    return Places(
        disk=disk,
        executor=InlineExecutor(),
        environ={},
        open_directory=lambda _: disk,
        read_file=read_named_file,
    )


def _locate(path: Path) -> str:
    return _real_places().locate("s3://bucket", SnapshotsConfig(s3_credentials_file=str(path))).secret_key


def test_a_credentials_file_that_everybody_can_read_is_not_used(tmp_path: Path) -> None:
    """The message names the file and the chmod and not what is in it; its group may read it, as pods need."""
    path = tmp_path / "aws"
    path.write_text("AWS_ACCESS_KEY_ID=filed\nAWS_SECRET_ACCESS_KEY=s3cret\n")
    path.chmod(0o604)
    with pytest.raises(UnsafePermissions) as caught:
        _locate(path)
    assert (caught.value.hint, "s3cret" in caught.value.message) == (f"chmod 600 {path}", False)
    for mode in (0o600, 0o640):
        path.chmod(mode)
        assert _locate(path) == "s3cret"


def test_a_credentials_file_may_be_a_mounted_secret(tmp_path: Path) -> None:
    """Kubernetes puts two links before the file; its rights count, not the links'. What is missing is not made."""
    (tmp_path / "..1").mkdir()
    path = tmp_path / "..1" / "aws"
    path.write_text("AWS_ACCESS_KEY_ID=filed\nAWS_SECRET_ACCESS_KEY=s3cret\n")
    path.chmod(0o440)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "aws").symlink_to("..data/aws")
    assert _locate(tmp_path / "aws") == "s3cret"
    for missing in (tmp_path / "none" / "aws", path / "aws"):
        with pytest.raises(ConfigError, match="is missing"):
            _locate(missing)
    assert not (tmp_path / "none").exists()
    with pytest.raises(StorageError):
        _locate(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"x" * ((64 << 10) + 1))
    with pytest.raises(ConfigError, match="too long"):
        _locate(path)
