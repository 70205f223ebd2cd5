"""Who may read and write a node's data directory, checked before anything in it is believed.

Files in it are 0600 and refused one by one when others can read them, but whoever may write the directory, or one that
is in it, can put files of its own in their place. One that a group can write and that is empty, as `mkdir` makes it
under umask 002, is closed; one with something in it is refused.

Kubernetes mounts a volume with an `fsGroup` as root's with mode 2770 and a group that the process is a member of; only
root and that group reach it, and the process may not change it, so it is taken as it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

from frys_node.base.errors import SecurityError
from frys_node.transport.errors import storage_failed

ROOT: Final = 0
PRIVATE_MODE: Final = 0o700


class DirectoryExposed(SecurityError):
    """Somebody else may write the data directory, or owns it. Nothing in it was read or changed."""

    code = "storage.exposed"


def verdict(
    mode: int, owner: int, group: int, *, user: int, groups: Collection[int], is_empty: bool
) -> Literal["", "tighten"]:
    """Judge a directory by mode, owner and group: leave it as it is, or take from others what they have.

    Raises:
        DirectoryExposed: Others may have put something there. The hint has no name of the directory in it.
    """
    if owner not in (user, ROOT):
        raise DirectoryExposed(f"belongs to another user (uid {owner})", hint=f"chown -R {user}")
    if mode & stat.S_IWOTH:
        raise DirectoryExposed(f"can be written by everybody (mode {mode:04o})", hint="chmod 700")
    if owner == user:
        if mode & stat.S_IWGRP and not is_empty:
            raise DirectoryExposed(f"can be written by group {group} (mode {mode:04o})", hint="chmod 700")
        return "tighten" if mode & 0o077 else ""
    if mode & stat.S_IWGRP and group not in groups:
        raise DirectoryExposed(f"can be written by group {group}, of which this process is none", hint="chmod g-w")
    return ""


def settle_directory(path: Path) -> str:
    """Check a data directory and those in it, and make them 0700 where this user owns them; returns what was mended.

    Raises:
        DirectoryExposed: See `verdict`. All are as they were, but for one that somebody wrote to meanwhile.
        StorageError: One cannot be looked at or changed.
    """
    try:
        inner = sorted(Path(found.path) for found in os.scandir(path) if found.is_dir(follow_symlinks=False))
        open_ones = [one for one in (path, *inner) if _judge(one)]
        return "; ".join(_close(one) for one in open_ones)
    except OSError as error:
        raise storage_failed("check", str(path), error) from error


def _judge(path: Path) -> str:
    found = os.stat(path)
    groups = {os.getegid(), *os.getgroups()}
    mode, user = stat.S_IMODE(found.st_mode), os.geteuid()
    is_empty = not mode & stat.S_IWGRP or not os.listdir(path)
    try:
        return verdict(mode, found.st_uid, found.st_gid, user=user, groups=groups, is_empty=is_empty)
    except DirectoryExposed as error:
        hint = f"look what is in it; if all of it is the node's: {error.hint} {path}"
        raise DirectoryExposed(f"the directory {path} {error.message}", hint=hint) from None


def _close(path: Path) -> str:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, mode & ~0o077)
    if mode & stat.S_IWGRP and os.listdir(path):
        # It was empty a moment ago, and who was quicker may have been anybody of the group.
        hint = f"look who put something into it, and give the node another directory, or empty {path}"
        raise DirectoryExposed(f"the directory {path} was written by others just now", hint=hint)
    return f"{path} was open to others (mode {mode:04o}): it is {mode & ~0o077:04o} now"
