"""What `start` and `join` share: options, the data directory, running in front or detached, what is printed."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from frys_node.base.errors import DeadlineExceeded, FrysError, UsageError
from frys_node.cli.places import HOME, IDENTITY
from frys_node.cli.terminal import say

STDIN = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of both verbs; each overrides a setting of the same meaning."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML settings (docs/configuration.md)")
    parser.add_argument("--name", metavar="N", help="the node's name (default: host name)")
    parser.add_argument("--bind", metavar="H:P", help="cluster address, TCP and UDP (default 0.0.0.0:7946)")
    parser.add_argument("--advertise", metavar="H:P", help="what others are told to connect to")
    parser.add_argument("--http", metavar="H:P", help="HTTP address (default 127.0.0.1:8080)")
    parser.add_argument("--data-dir", metavar="D", help="data directory (default ./frys-data/<name>)")
    parser.add_argument(
        "--identity", choices=("ed25519", "ml-dsa-65"), help="keys of a new cluster's nodes (default ed25519)"
    )
    parser.add_argument(
        "--workflows", metavar="FILE.py", action="append", default=[], help="load workflows from a file"
    )
    parser.add_argument("--detach", action="store_true", help="return once the node is ready")
    parser.add_argument("--json", action="store_true", help="print what was started as one JSON line")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace, *, seeds: list[str] | None, token_file: str | None) -> int:
    """Run a node until it is stopped; with `seeds`, join a cluster unless this directory already belongs to one."""
    if arguments.detach and arguments.ready_fd is None:
        return _detach(arguments, reads_token=token_file == STDIN)
    # PID 1 without a handler ignores SIGTERM: have one before anything slow is imported.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from frys_node.arrival import Launch, read_kept
    from frys_node.boot import run_node
    from frys_node.config import NodeConfig, load

    def read() -> NodeConfig:
        return load(file=arguments.config, environ=os.environ, flags=_flags(arguments))

    config = read()
    name_chosen = bool(config.system.name)
    name = config.system.name or host_name()
    data_dir = choose_data_dir(config.system.data_dir, name, name_chosen=name_chosen, joining=seeds is not None)
    kept = read_kept(data_dir)
    is_restart = data_dir is not None and (data_dir / IDENTITY).exists()
    launch = Launch(
        config=config.keeping(kept),
        name=name,
        name_chosen=name_chosen,
        data_dir=data_dir,
        seeds=tuple(seeds or ()),
        joining=seeds is not None,
        token_file=token_file,
        # Read before the event loop owns the signals, so that Ctrl-C ends the wait for somebody who types.
        token_text=sys.stdin.readline() if token_file == STDIN and not is_restart else "",
        reload=lambda: read().keeping(kept),
        on_ready=lambda info: _announce(arguments, info),
        is_detached=arguments.ready_fd is not None,
    )
    import trio

    try:
        trio.run(run_node, launch)
    except* FrysError as group:
        raise _first(group) from group
    return 0


def _first(group: BaseExceptionGroup[FrysError]) -> FrysError:
    """Return the first error of a group: components fail one at a time, and one line is what helps."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FrysError)
    return error


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "system.name": arguments.name,
        "system.data_dir": arguments.data_dir or os.environ.get("FRYS_DATA_DIR"),
        "cluster.identity": arguments.identity,
        "network.bind": arguments.bind,
        "network.advertise": arguments.advertise,
        "plugins.network.http": arguments.http,
        "plugins.workflow.files": json.dumps([str(Path(file).resolve()) for file in arguments.workflows])
        if arguments.workflows
        else None,
    }


def host_name() -> str:
    """Return this machine's short name in the letters that node names may have."""
    name = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().partition(".")[0].lower()).strip("-")
    return name[:48] or "node"


def choose_data_dir(given: str, name: str, *, name_chosen: bool, joining: bool) -> Path | None:
    """Return the data directory: given, the one of that name or the only one here, or a new one.

    None is a new one that is named when the issuer has said the node's name.

    Raises:
        UsageError: Several nodes live here and none was picked, or a cluster would be founded beside another's node.
    """
    if given:
        return Path(given)
    found = sorted(path.parent.parent for path in HOME.glob(f"*/{IDENTITY}"))
    if name_chosen and HOME / name in found:
        return HOME / name
    if name_chosen and joining:
        return None
    listed = ", ".join(map(str, found))
    if found and name_chosen:
        raise UsageError(
            f"another node lives here: {listed}, and none is named '{name}'",
            hint=f"start that one: frys-node start --data-dir {found[0]}; have '{name}' join it: frys-node join --name"
            f" {name} --seed HOST:PORT; or found another cluster: frys-node start --data-dir {HOME / name}",
        )
    if len(found) > 1:
        raise UsageError(f"several nodes live here: {listed}", hint="pick one with --name or --data-dir")
    if found:
        return found[0]
    return None if joining else HOME / name


def _announce(arguments: argparse.Namespace, info: dict[str, Any]) -> None:
    """Say that the node is ready: to the parent that waits, else to the person."""
    if arguments.ready_fd is not None:
        log = os.open(Path(info["data_dir"]) / "node.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        with os.fdopen(arguments.ready_fd, "w") as pipe:
            json.dump(info, pipe)
        arguments.ready_fd = None
        return
    say(json.dumps(info) if arguments.json else banner(info))


def banner(info: dict[str, Any]) -> str:
    """Return what a person sees when a node is up; the join line is exact."""
    waits = info["waits_for"]
    lines = [
        f"node {info['name']} of cluster {info['cluster']} {'runs, and is not ready yet' if waits else 'is ready'}",
        f"  cluster  {info['address']} (TCP and UDP)",
        f"  security {info['security']}",
        f"  http     {info['scheme']}://{info['http']}" if info["http"] else "  http     off",
        f"  data     {info['data_dir']}",
    ]
    lines += [f"  waits    {text}" for text in waits]
    lines += [f"  note     {text}" for text in info["notes"]]
    lines += ["", "next node on this machine, in another directory:", f"  frys-node join --seed {info['join_local']}"]
    if not info["join_remote"]:
        lines += [
            f"other machines cannot reach {info['address']}; for them, stop this node and start it again:",
            f"  frys-node start --data-dir {info['data_dir']} {info['for_others']}",
        ]
    elif info["join_token_file"]:
        lines += [
            "next machine (copy the token over first; it works for 24 hours):",
            f"  frys-node join --seed {info['join_remote']} --token-file join-token   # {info['join_token_file']}",
        ]
    else:
        lines += [
            "next machine (make a token first, and copy it over: frys-node token create > join-token):",
            f"  frys-node join --seed {info['join_remote']} --token-file join-token",
        ]
    return "\n".join(lines)


def _detach(arguments: argparse.Namespace, *, reads_token: bool) -> int:
    """Start the same command in the background; return when it is ready or has failed.

    Raises:
        DeadlineExceeded: The node runs, and was not ready in time; what it waits for was printed.
    """
    reader, writer = os.pipe()
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    process = subprocess.Popen(
        [sys.executable, "-m", "frys_node", *sys.argv[1:], "--ready-fd", str(writer)],
        pass_fds=[writer],
        stdin=None if reads_token else subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as pipe:
            text = pipe.read()
    except BaseException:
        process.terminate()  # whoever gives up waiting, or is ended, does not want a node in the background
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if not text:
        return process.wait()
    info = json.loads(text) | {"pid": process.pid}
    say(json.dumps(info) if arguments.json else f"{banner(info)}\n\nrunning in the background, pid {process.pid}")
    if info["waits_for"]:
        raise DeadlineExceeded(
            f"node {info['name']} runs and is not ready: {'; '.join(info['waits_for'])}",
            hint=f"see {info['data_dir']}/node.log and: frys-node status --data-dir {info['data_dir']}",
        )
    return 0
