"""What every disk promises."""

from __future__ import annotations

import pytest

from frys_node.base.errors import StorageError
from frys_node.base.ports import Disk
from frys_node.transport.errors import PathRefused


def test_a_missing_file_reads_as_none_and_has_no_size(disk: Disk) -> None:
    """Absence is no error."""
    assert disk.read("a/b") is None
    assert disk.size_bytes("a/b") == 0
    assert list(disk.list("a")) == []
    disk.remove("a/b")
    disk.sync("a/b")
    disk.truncate("a/b", 0)


def test_write_replaces_the_whole_file(disk: Disk) -> None:
    """A second write leaves nothing of the first."""
    disk.write("dir/file", b"a longer first content")
    disk.write("dir/file", b"short")
    assert disk.read("dir/file") == b"short"
    assert list(disk.list("dir")) == ["file"]


def test_a_write_that_is_not_durable_is_still_whole(disk: Disk) -> None:
    """It replaces the file at once; only a crash tells the difference."""
    disk.write("file", b"a longer first content")
    disk.write("file", b"short", durable=False)
    assert disk.read("file") == b"short"
    disk.append("file", b"er")
    disk.sync("file")
    assert disk.read("file") == b"shorter"


def test_only_one_writer_creates_a_name(disk: Disk) -> None:
    """The first is told True and its bytes stay; a removed name can be created again."""
    assert disk.create("dir/file", b"first")
    assert not disk.create("dir/file", b"second")
    assert disk.read("dir/file") == b"first"
    assert list(disk.list("dir")) == ["file"]
    disk.remove("dir/file")
    assert disk.create("dir/file", b"third")
    assert disk.read("dir/file") == b"third"


def test_appends_add_up_and_survive_a_sync(disk: Disk) -> None:
    """Appended bytes are read in order, before and after a sync."""
    disk.append("log", b"one")
    disk.append("log", b"two")
    assert disk.read("log") == b"onetwo"
    disk.sync("log")
    disk.append("log", b"three")
    assert disk.read("log") == b"onetwothree"
    assert disk.size_bytes("log") == 11


def test_append_goes_on_after_truncate_and_after_write(disk: Disk) -> None:
    """An append always goes to the end of what is there now."""
    disk.append("log", b"0123456789")
    disk.truncate("log", 4)
    disk.append("log", b"x")
    assert disk.read("log") == b"0123x"
    disk.truncate("log", 99)
    assert disk.size_bytes("log") == 5
    disk.write("log", b"new")
    disk.append("log", b"!")
    assert disk.read("log") == b"new!"


def test_list_is_sorted_and_shows_directories_once(disk: Disk) -> None:
    """Order does not depend on the file system."""
    for name in ("b", "a", "c/2", "c/1"):
        disk.write(name, b"")
    assert list(disk.list("")) == ["a", "b", "c"]
    assert list(disk.list("c")) == ["1", "2"]


def test_remove_takes_a_file_or_a_whole_directory(disk: Disk) -> None:
    """Nothing beneath a removed directory stays, and its name can be used again."""
    disk.append("d/log", b"1")
    disk.write("d/e/file", b"2")
    disk.write("dd", b"3")
    disk.remove("d")
    assert disk.read("d/log") is None
    assert disk.read("d/e/file") is None
    assert disk.read("dd") == b"3"
    disk.append("d/log", b"fresh")
    assert disk.read("d/log") == b"fresh"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "x\0y", "a/."])
def test_paths_that_leave_the_root_are_refused(disk: Disk, path: str) -> None:
    """No call touches anything outside the root."""
    for call in (disk.read, disk.size_bytes, disk.remove, disk.sync):
        with pytest.raises(PathRefused):
            call(path)
    for write in (disk.write, disk.append):
        with pytest.raises(PathRefused) as caught:
            write(path, b"x")
        assert isinstance(caught.value, StorageError)


def test_many_files_can_be_appended_to_in_turn(disk: Disk) -> None:
    """The bound on open files is invisible."""
    for round_number in range(3):
        for number in range(80):
            disk.append(f"logs/{number}", bytes([round_number]))
            if number % 2:
                disk.sync(f"logs/{number}")
    assert all(disk.read(f"logs/{number}") == b"\0\1\2" for number in range(80))


def test_large_writes_come_back_whole(disk: Disk) -> None:
    """Sizes beyond one kernel buffer work."""
    data = bytes(range(256)) * 8_192
    disk.write("big", data)
    disk.append("big", data)
    assert disk.read("big") == data + data
