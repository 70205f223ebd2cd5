"""Saved snapshots of every format that was ever written are read, verified and restored (S6)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from frys_node.base.types import NodeId, UnitId
from frys_node.testing.clock import FakeClock
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.saved import ByteUnits
from frys_node.transport.disk import DirectoryDisk
from snapshots.library import Library
from snapshots.objects import DirectoryObjects

HERE = Path(__file__).parent
STATE = {UnitId("t/0"): b"", UnitId("t/1"): b"one" * 5, UnitId("t/2"): bytes(range(256)) * 1_030}


def _library(directory: Path) -> Library:
    return Library(
        DirectoryObjects(DirectoryDisk(directory), InlineExecutor(), place=str(directory)),
        executor=InlineExecutor(),
        clock=FakeClock(),
        providers={"t": ByteUnits(dict(STATE))},
        node=NodeId("a"),
    )


@pytest.mark.parametrize("version", [1, 2])
async def test_a_directory_of_an_earlier_format_is_read(version: int, tmp_path: Path) -> None:
    """What was saved by that version is listed, whole, and gives its units back."""
    shutil.copytree(HERE / f"snapshot-directory-{version}", tmp_path / "saved")
    library = _library(tmp_path / "saved")
    (index,), problems = await library.shelf.list()
    assert (index.name, index.format, problems) == ("before", version, [])
    assert (await library.verify("before")).problems == ()
    contents = await library.shelf.open(index)
    for saved in index.units:
        manifest = await contents.manifest(saved)
        assert b"".join([part async for part in contents.parts(manifest)]) == STATE[saved.unit]
    await library.create("after")
    assert await library.shelf.names() == ["after", "before"]
    assert (await library.verify("before")).problems == ()
    report = await library.delete("before")
    assert (report.deleted, report.waits_for) == (("before",), "")
    assert (await library.verify("after")).problems == ()


async def test_the_present_format_is_written_as_the_golden_directory_has_it(tmp_path: Path) -> None:
    """Chunks and lists of units are byte for byte those of the golden directory."""
    await _library(tmp_path / "saved").create("before")
    golden = HERE / "snapshot-directory-2"
    for folder in ("_chunks", "_bundles"):
        written = {path.name: path.read_bytes() for path in (tmp_path / "saved" / folder).iterdir()}
        assert written == {path.name: path.read_bytes() for path in (golden / folder).iterdir()}
