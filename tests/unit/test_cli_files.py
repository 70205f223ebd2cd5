"""Files that a command makes for its user: whole or not at all, never in another's place, for their owner only."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from pathlib import Path

import pytest

from frys_node.base.errors import AlreadyExists, UsageError
from frys_node.cli.files import FileFailed, NewFile, read_secret_text, read_text, write_new
from frys_node.secure.errors import UnsafePermissions


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    """Under its name only after `commit`, with all its bytes, mode 0600 whatever the umask; nothing else is left."""
    path = tmp_path / "new"
    umask = os.umask(0)
    try:
        with NewFile(path) as file:
            for _ in range(3):
                file.write(b"x" * 100_000)
            assert not path.exists()
            assert all(stat.S_IMODE(part.stat().st_mode) == 0o600 for part in tmp_path.iterdir())
            file.commit()
    finally:
        os.umask(umask)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"x" * 300_000, 0o600)
    assert _names(tmp_path) == ["new"]


def _give_up(path: Path) -> None:
    with NewFile(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_file_that_was_given_up_leaves_nothing(tmp_path: Path) -> None:
    """By an error, by Ctrl-C, or because nobody committed it."""
    with pytest.raises(KeyboardInterrupt):
        _give_up(tmp_path / "new")
    with NewFile(tmp_path / "new") as file:
        file.write(b"half")
    assert _names(tmp_path) == []


def _without_unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file system one that has no files without a name, as NFS is."""
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no unnamed files here")
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", refuse)


def test_a_command_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """Half-way through a file, no part of it is in the folder under any name."""
    with NewFile(tmp_path / "new") as file:
        file.write(b"half")
        assert _names(tmp_path) == []
        file.commit()
    assert _names(tmp_path) == ["new"]


def test_what_a_killed_command_left_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files need names: a part that nobody writes any more is replaced, one that is being written stands."""
    _without_unnamed(monkeypatch)
    path, part = tmp_path / "new", tmp_path / ".new.part"
    part.write_bytes(b"left")
    part.chmod(0o644)
    with NewFile(path) as file:
        file.write(b"mine")
        assert (part.read_bytes(), stat.S_IMODE(part.stat().st_mode)) == (b"mine", 0o600)
        with pytest.raises(AlreadyExists, match="being written"):
            write_new((path, "other"))
        file.commit()
    assert (path.read_bytes(), _names(tmp_path)) == (b"mine", ["new"])
    path.unlink()
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileFailed):
        write_new((path, "new"))


def test_several_files_appear_together_and_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are complete before the first has its name; if one cannot be named, none is there."""
    first, second = tmp_path / "key.pub", tmp_path / "key"
    steps: list[tuple[str, ...]] = []
    real = NewFile.commit

    def commit(self: NewFile) -> None:
        real(self)
        steps.append(tuple(_names(tmp_path)))

    monkeypatch.setattr(NewFile, "commit", commit)
    write_new((first, "public"), (second, "private"))
    assert steps == [("key.pub",), ("key", "key.pub")]
    first.unlink()
    second.unlink()

    def raced(self: NewFile) -> None:
        second.write_text("somebody's")
        real(self)

    monkeypatch.setattr(NewFile, "commit", raced)
    with pytest.raises(AlreadyExists):
        write_new((first, "public"), (second, "private"))
    assert (second.read_text(), _names(tmp_path)) == ("somebody's", ["key"])


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_there_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """There before, made meanwhile, or a link that leads nowhere; also where the file system has no hard links."""
    if not has_links:
        _without_unnamed(monkeypatch)

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "taken"

    def commit() -> None:
        with NewFile(path) as file:
            file.write(b"new")
            path.write_bytes(b"old")
            file.commit()

    with pytest.raises(AlreadyExists):
        commit()
    assert path.read_bytes() == b"old"
    with pytest.raises(AlreadyExists):
        write_new((path, "new"))
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(AlreadyExists):
        write_new((path, "new"))
    path.unlink()
    write_new((path, "new"))
    assert (path.read_text(), _names(tmp_path)) == ("new", ["taken"])


def test_a_place_that_cannot_be_written_has_an_error_with_its_name(tmp_path: Path) -> None:
    """No folder, a file in its place; the error is one line with a fix."""
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none" / "x", tmp_path / "file" / "x"):
        with pytest.raises(FileFailed) as caught:
            write_new((path, "new"))
        assert (str(path) in caught.value.message, bool(caught.value.hint)) == (True, True)


def test_secrets_are_read_from_their_owners_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any right of others or of the group is refused with the chmod; too long is something else; bytes are text."""
    path = tmp_path / "secret"
    path.write_text("hush")
    for mode in (0o604, 0o640, 0o601, 0o666, 0o620):
        path.chmod(mode)
        with pytest.raises(UnsafePermissions) as caught:
            read_secret_text(str(path), 10)
        assert (caught.value.hint, "hush" in caught.value.message) == (f"chmod 600 {path}", False)
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert read_secret_text(str(path), 10) == "hush"
    with pytest.raises(UsageError, match="longer than 3 bytes"):
        read_secret_text(str(path), 3)
    with pytest.raises(FileFailed):
        read_secret_text(str(tmp_path / "none"), 10)
    with pytest.raises(FileFailed):
        read_text(tmp_path, 10)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from\xffoutside")))
    assert read_secret_text("-", 100) == "from\ufffdoutside"
