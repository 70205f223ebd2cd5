"""Who may write a data directory: judged from numbers, and once with real directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.admin import ADMIN_HASHES_PATH, ADMIN_WORD_PATH, AdminTokens
from frys_node.secure.errors import UnsafePermissions
from frys_node.secure.stored import BOOT_PATH, next_boot
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.premises import DirectoryExposed, settle_directory, verdict
from frys_node.trust.credentials import DEPARTED_PATH, EXPULSIONS_PATH, REVOKED_PATH, MemberSecrets
from frys_node.trust.departures import DEPARTURES_PATH
from frys_node.trust.entrusted import ENTRUSTED_PATH, EntrustedTable
from frys_node.trust.issuer import IssuerDesk
from frys_node.trust.names import NAMES_PATH

US, OTHER, ROOT = 65_532, 1_000, 0
OUR_GROUP, OTHER_GROUP = 65_532, 100


@pytest.mark.parametrize(
    ("mode", "owner", "group", "wanted"),
    [
        (0o700, US, OUR_GROUP, ""),
        (0o2700, US, OUR_GROUP, ""),
        (0o755, US, OUR_GROUP, "tighten"),
        (0o750, US, OTHER_GROUP, "tighten"),
        (0o2770, ROOT, OUR_GROUP, ""),
        (0o2775, ROOT, OUR_GROUP, ""),
        (0o770, ROOT, OUR_GROUP, ""),
        (0o755, ROOT, OTHER_GROUP, ""),
    ],
)
def test_a_directory_is_ours_alone_or_a_volume_of_our_group(mode: int, owner: int, group: int, wanted: str) -> None:
    """What this user owns can be closed; what root mounted for the process's group (`fsGroup`) is as it should be."""
    for is_empty in (False, True):
        assert verdict(mode, owner, group, user=US, groups={OUR_GROUP, 7}, is_empty=is_empty) == wanted


@pytest.mark.parametrize(("mode", "group"), [(0o2770, OUR_GROUP), (0o775, OTHER_GROUP), (0o770, OUR_GROUP)])
def test_a_directory_that_a_group_can_write_is_closed_while_nothing_is_in_it(mode: int, group: int) -> None:
    """Afterwards nobody knows whose files they are; it is what `mkdir` makes under umask 002."""
    assert verdict(mode, US, group, user=US, groups={OUR_GROUP}, is_empty=True) == "tighten"
    with pytest.raises(DirectoryExposed, match="can be written by group") as refusal:
        verdict(mode, US, group, user=US, groups={OUR_GROUP}, is_empty=False)
    assert refusal.value.hint == "chmod 700"


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
        verdict(mode, owner, group, user=US, groups={OUR_GROUP, 7}, is_empty=True)
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


def test_directories_inside_are_judged_too_before_anything_is_changed(tmp_path: Path) -> None:
    """Who can write `identity` can put an identity there; one that others can only read is closed."""
    inside = tmp_path / "identity"
    inside.mkdir(0o755)
    tmp_path.chmod(0o755)
    (inside / "identity.json").touch(0o600)
    for mode in (0o777, 0o770):
        inside.chmod(mode)
        with pytest.raises(DirectoryExposed) as refusal:
            settle_directory(tmp_path)
        assert f"chmod 700 {inside}" in refusal.value.hint
        assert tmp_path.stat().st_mode & 0o777 == 0o755
    inside.chmod(0o750)
    assert f"{inside} was open to others (mode 0750): it is 0700 now" in settle_directory(tmp_path)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path, inside)] == [0o700, 0o700]


@pytest.mark.parametrize(
    "path",
    [
        *(ADMIN_HASHES_PATH, ADMIN_WORD_PATH, NAMES_PATH, DEPARTURES_PATH, ENTRUSTED_PATH),
        *(REVOKED_PATH, EXPULSIONS_PATH, DEPARTED_PATH, BOOT_PATH),
    ],
)
def test_what_says_who_may_do_what_is_refused_where_others_can_touch_it(tmp_path: Path, path: str) -> None:
    """A planted hash would make its planter an administrator, a planted name a member; the refusal names the fix."""
    disk = DirectoryDisk(tmp_path)
    issuer = create_cluster(disk, SystemEntropy(), SystemClock(), cluster_name="t", node_name="a")
    disk.write(path, disk.read(path) or b"")
    (tmp_path / path).chmod(0o666)

    def start() -> None:
        AdminTokens.load(disk)
        EntrustedTable(disk)
        MemberSecrets(disk)
        next_boot(disk, SystemEntropy())
        IssuerDesk(issuer, disk, SystemEntropy(), SystemClock())

    with pytest.raises(UnsafePermissions, match="readable by others") as refusal:
        start()
    assert refusal.value.hint == f"chmod 600 {path}"
