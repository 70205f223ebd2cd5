"""Who may write a data directory: judged from numbers, and once with real directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.transport.premises import DirectoryExposed, settle_directory, verdict

US, OTHER, ROOT = 65_532, 1_000, 0
OUR_GROUP, OTHER_GROUP = 65_532, 100


@pytest.mark.parametrize(
    ("mode", "owner", "group", "wanted"),
    [
        (0o700, US, OUR_GROUP, ""),
        (0o2700, US, OUR_GROUP, ""),
        (0o755, US, OUR_GROUP, "tighten"),
        (0o750, US, OTHER_GROUP, "tighten"),
        (0o2770, US, OUR_GROUP, "tighten"),
        (0o775, US, OTHER_GROUP, "tighten"),
        (0o2770, ROOT, OUR_GROUP, ""),
        (0o2775, ROOT, OUR_GROUP, ""),
        (0o770, ROOT, OUR_GROUP, ""),
        (0o755, ROOT, OTHER_GROUP, ""),
    ],
)
def test_a_directory_is_ours_alone_or_a_volume_of_our_group(mode: int, owner: int, group: int, wanted: str) -> None:
    """What this user owns can be closed; what root mounted for the process's group (`fsGroup`) is as it should be."""
    assert verdict(mode, owner, group, user=US, groups={OUR_GROUP, 7}) == wanted


@pytest.mark.parametrize(
    ("mode", "owner", "group", "fix"),
    [
        (0o777, US, OUR_GROUP, "chmod 700"),
        (0o1777, US, OUR_GROUP, "chmod 700"),
        (0o702, US, OUR_GROUP, "chmod 700"),
        (0o777, ROOT, OUR_GROUP, "chmod 700"),
        (0o2770, ROOT, OTHER_GROUP, "chmod g-w"),
        (0o700, OTHER, OUR_GROUP, f"chown -R {US}"),
        (0o2770, OTHER, OUR_GROUP, f"chown -R {US}"),
    ],
)
def test_a_directory_that_others_may_write_is_refused(mode: int, owner: int, group: int, fix: str) -> None:
    """Whoever can put files there can put an identity and an admin token there."""
    with pytest.raises(DirectoryExposed) as refusal:
        verdict(mode, owner, group, user=US, groups={OUR_GROUP, 7})
    assert refusal.value.hint == fix


def test_a_readable_directory_is_closed_and_a_writable_one_is_left_and_refused(tmp_path: Path) -> None:
    """Real directories: the mend says what it was, the refusal names the directory and the command."""
    for mode in (0o755, 0o750, 0o775, 0o711):
        tmp_path.chmod(mode)
        assert settle_directory(tmp_path) == f"{tmp_path} was open to others (mode {mode:04o}): it is 0700 now"
        assert tmp_path.stat().st_mode & 0o7777 == 0o700
        assert settle_directory(tmp_path) == ""
    tmp_path.chmod(0o777)
    with pytest.raises(DirectoryExposed, match="can be written by everybody") as refusal:
        settle_directory(tmp_path)
    assert f"chmod 700 {tmp_path}" in refusal.value.hint
    assert tmp_path.stat().st_mode & 0o777 == 0o777
