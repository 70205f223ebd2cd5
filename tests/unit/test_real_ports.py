"""What only the real ports have: modes, locks, limits of the kernel, unix sockets."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import StorageError
from frys_node.base.types import Address
from frys_node.transport import disk as disk_module
from frys_node.transport.disk import DirectoryDisk, DirectoryLocked
from frys_node.transport.errors import (
    AddressInUse,
    ConnectFailed,
    FilePoisoned,
    PathRefused,
    StorageFull,
    StorageReadOnly,
    storage_failed,
)
from frys_node.transport.executor import ASIDE_NICE, ThreadExecutor
from frys_node.transport.network import SystemNetwork


def test_files_and_directories_are_private(tmp_path: Path) -> None:
    """0600 and 0700, whatever the umask."""
    disk = DirectoryDisk(tmp_path / "data")
    disk.write("a/b", b"1")
    disk.append("a/c", b"2")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").rglob("*")}
    assert modes == {"a": 0o700, "b": 0o600, "c": 0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    disk.close()


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link planted in the data directory leads nowhere."""
    disk = DirectoryDisk(tmp_path / "data")
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    (tmp_path / "data" / "link").symlink_to(outside)
    with pytest.raises(PathRefused):
        disk.read("link")
    with pytest.raises(PathRefused):
        disk.append("link", b"x")
    disk.write("link", b"replaced")
    assert outside.read_bytes() == b"secret"
    assert disk.read("link") == b"replaced"


@pytest.mark.parametrize("below", ["", "/deep/deeper"])
def test_a_place_that_is_a_file_is_refused_as_the_callers_mistake(tmp_path: Path, below: str) -> None:
    """Not as a disk that failed, and not taken for an empty directory; the file stays."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(PathRefused, match="is a file, or below one") as caught:
        DirectoryDisk(Path(f"{tmp_path}/file{below}"))
    assert (caught.value.status, caught.value.hint) == (400, "name a directory")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """Two nodes on one directory would destroy it."""
    first, second = DirectoryDisk(tmp_path), DirectoryDisk(tmp_path)
    first.lock()
    first.lock()
    with pytest.raises(DirectoryLocked) as caught:
        second.lock()
    assert "--data-dir" in caught.value.hint
    first.close()
    second.lock()
    second.close()


def test_a_full_disk_keeps_the_old_bytes(tmp_path: Path) -> None:
    """A write cut short by the kernel's size limit is a StorageFull and leaves no partial bytes."""
    disk = DirectoryDisk(tmp_path)
    disk.write("file", b"old")
    disk.append("log", b"o" * 1_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        with pytest.raises(StorageFull):
            disk.write("file", b"n" * 10_000)
        with pytest.raises(StorageFull):
            disk.append("log", b"n" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert disk.read("file") == b"old"
    assert disk.read("log") == b"o" * 1_000
    assert list(disk.list("")) == ["file", "log"]
    disk.append("log", b"again")
    assert disk.size_bytes("log") == 1_005


def test_a_failed_fsync_poisons_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel forgets the pages after it reported the error once; a second fsync would lie."""
    disk = DirectoryDisk(tmp_path)
    disk.append("log", b"1")

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(disk_module.os, "fdatasync", refuse)
        with pytest.raises(StorageError):
            disk.sync("log")
    for call in (lambda: disk.sync("log"), lambda: disk.append("log", b"2"), lambda: disk.truncate("log", 0)):
        with pytest.raises(FilePoisoned):
            call()
    disk.write("log", b"rewritten")
    disk.append("log", b"!")
    disk.sync("log")
    assert disk.read("log") == b"rewritten!"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, StorageReadOnly),
        (errno.EACCES, StorageReadOnly),
        (errno.EIO, StorageError),
    ],
)
def test_errors_of_the_kernel_have_one_meaning_each(number: int, kind: type[StorageError]) -> None:
    """The message names the file and the reason."""
    error = storage_failed("write", "a/b", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert "a/b" in error.message
    assert os.strerror(number) in error.message
    assert error.hint


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A clear error instead of a traceback."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        DirectoryDisk(tmp_path / "file" / "data")


async def test_unix_sockets_are_private_and_name_their_peer(tmp_path: Path) -> None:
    """Mode 0600, peer credentials, and a stale file is replaced."""
    network, path = SystemNetwork(), tmp_path / "admin.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with trio.fail_after(10):
        listener = await network.listen_unix(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        near = await network.connect_unix(path)
        far, _ = await listener.accept()
        await near.send_all(b"hello")
        assert await far.receive_some() == b"hello"
        credentials = far.peer_credentials()
        assert credentials is not None
        assert (credentials.pid, credentials.uid) == (os.getpid(), os.getuid())
        with pytest.raises(AddressInUse):
            await network.listen_unix(path)
        for end in (near, far):
            await end.aclose()
        await listener.aclose()
        with pytest.raises(ConnectFailed):
            await network.connect_unix(path)


async def test_accept_waits_out_a_lack_of_file_descriptors() -> None:
    """EMFILE neither raises nor spins; the connection is served once descriptors are free."""
    network = SystemNetwork()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with trio.fail_after(10):
        listener = await network.listen(Address("127.0.0.1", 0))
        near = await network.connect(listener.address)
        used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        async with trio.open_nursery() as nursery:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            fillers = []
            with suppress(OSError):
                while True:
                    fillers.append(os.dup(0))

            async def release() -> None:
                while not listener.accept_pauses:  # noqa: ASYNC110  (the listener has no event for it)
                    await trio.sleep(0.01)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in fillers:
                    os.close(fd)

            nursery.start_soon(release)
            far, _ = await listener.accept()
        assert listener.accept_pauses >= 1
        for end in (near, far):
            await end.aclose()
        await listener.aclose()


async def test_sockets_are_closed_on_exec_and_small_writes_are_not_held_back() -> None:
    """No inherited descriptors, no Nagle delay."""
    network = SystemNetwork()
    with trio.fail_after(10):
        listener = await network.listen(Address("127.0.0.1", 0))
        near = await network.connect(listener.address)
        far, _ = await listener.accept()
        datagram = await network.bind(Address("127.0.0.1", 0))
        for end in (near, far):
            assert not os.get_inheritable(end.socket.fileno())
            assert end.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await end.aclose()
        await datagram.aclose()
        await listener.aclose()


async def test_a_host_that_is_no_name_is_a_refused_packet_and_an_unresolved_name() -> None:
    """A member may claim any host: what the codec of names refuses ends neither the reader of packets nor a dial."""
    network = SystemNetwork()
    with trio.fail_after(10):
        datagram = await network.bind(Address("127.0.0.1", 0))
        for host in ("a..b", ".0.0.0.1", "a" * 70, "\N{SNOWMAN}" * 64):
            assert datagram.send(b"x", Address(host, 1)) is False
            with pytest.raises(ConnectFailed, match="has no address"):
                await network.connect(Address(host, 1))
        await datagram.aclose()


async def test_work_that_can_wait_has_less_claim_to_the_processor_and_nobody_else_does() -> None:
    """Its thread stands back, and is not one that later work would be given; its error is the caller's."""
    executor = ThreadExecutor()

    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice()
    assert await executor.run_aside(nice) == min(before + ASIDE_NICE, 19)
    assert [await executor.run(nice) for _ in range(3)] == [before] * 3
    assert nice() == before
    with pytest.raises(ZeroDivisionError):
        await executor.run_aside(lambda: 1 // 0)


async def test_work_that_can_wait_is_done_when_its_cancel_is_delivered() -> None:
    """It may hold shared state, so nobody goes on while it runs; the next call finds a free place."""
    executor, begun, may_end = ThreadExecutor(), trio.Event(), threading.Event()
    token, ended = trio.lowlevel.current_trio_token(), list[str]()

    def work() -> None:
        token.run_sync_soon(begun.set)
        may_end.wait()
        ended.append("work")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.run_aside, work)
        await begun.wait()
        nursery.cancel_scope.cancel()
        may_end.set()
    assert ended == ["work"]
    assert await executor.run_aside(lambda: 5) == 5
