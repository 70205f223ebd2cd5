"""The `frys-node` command.

Each verb is one module with `add_arguments(parser)` and `run(arguments) -> int`, imported only when asked for, so that
`--version`, probes and completion stay quick. Data goes to stdout, diagnostics to stderr. Exit codes: 0 ok, 1 failed,
2 usage, 3 cannot reach a node, 4 timed out, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

OK, FAILED, USAGE, UNREACHABLE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 130

VERBS = {
    "start": "start the first node of a cluster, or restart a node",
    "join": "start a node that joins a running cluster",
    "leave": "make a node leave its cluster for good",
    "force-leave": "declare a dead member to have left for good",
    "members": "list the members as a node sees them; with --watch, as they change",
    "why": "tell who accused a member, on what evidence, and when",
    "rtt": "show the round trips between members",
    "reachability": "ask every member whom it sees and reaches",
    "monitor": "follow member changes and events as they happen",
    "event": "tell every node something, once",
    "query": "ask the members and see who answers what",
    "node": "expel a node (revoke), remove a dead one, confirm one (admit); set and read key/value state of the nodes",
    "issuer": "show, hand over or take the role of the node that writes the topology record",
    "doctor": "say what is wrong, each with what to do",
    "status": "show what a node is and does",
    "token": "create, list and revoke tokens, for nodes to join with and for programs",
    "ca": "show, rotate and export the cluster's certificate authority",
    "keys": "list and rotate the keys that gossip is sealed with",
    "ring": "show who owns what",
    "workflow": "list, start and inspect workflow runs",
    "collection": "manage vector collections",
    "cache": "get, put and delete cached values",
    "snapshot": "save, verify, restore, export and import units; watch moves",
    "config": "show the settings in force; with --origin, where each came from",
    "sim": "run the deterministic simulator",
    "bench": "run a benchmark scenario beside its peer",
    "demo": "a live cluster doing real work, in two minutes",
}

MODULES = {"force-leave": "force_leave"}
"""Modules of verbs that cannot name one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not __debug__:
        print("frys-node: refuses to run under python -O: its assertions are load-bearing", file=sys.stderr)
        return USAGE
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(overview())
        return OK if arguments else USAGE
    if arguments[0] in {"-V", "--version", "version"}:
        from frys_node import __version__

        print(f"frys-node {__version__}")
        return OK
    verb = arguments.pop(0)
    if verb not in VERBS:
        from frys_node.base.words import did_you_mean

        print(
            f"frys-node: no command '{verb}'{did_you_mean(verb, VERBS)} (frys-node --help lists them)", file=sys.stderr
        )
        return USAGE
    return _run_verb(verb, arguments)


def module_of(verb: str) -> str:
    """Return the name of a verb's module."""
    return f"frys_node.cli.{MODULES.get(verb, verb)}"


def _run_verb(verb: str, arguments: list[str]) -> int:
    module = importlib.import_module(module_of(verb))
    # Abbreviations would change their meaning with the next option, and --detach must be found by its whole name.
    parser = argparse.ArgumentParser(prog=f"frys-node {verb}", description=module.__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return _guarded(module.run, parsed)


def _guarded(run: object, parsed: argparse.Namespace) -> int:
    """Run a verb; a `FrysError` becomes one line and its fix, never a traceback."""
    from frys_node.base.errors import ConfigError, DeadlineExceeded, FrysError, NodeUnreachable, UsageError

    assert callable(run)
    from frys_node.cli.arguments import check_texts

    try:
        check_texts(parsed)
        return int(run(parsed))
    except BrokenPipeError:
        # The reader has gone (`| head`): point stdout elsewhere, so that the interpreter's own flush cannot fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except FrysError as error:
        report(error)
        if isinstance(error, NodeUnreachable):
            return UNREACHABLE
        if isinstance(error, DeadlineExceeded):
            return TIMED_OUT
        # Only what the command line itself got wrong is a usage error.
        return USAGE if isinstance(error, (ConfigError, UsageError)) and error.status == 400 else FAILED
    except Exception as error:  # noqa: BLE001 (a traceback is never a user's answer, and never lost either)
        from frys_node.cli.terminal import printable

        print(f"frys-node: this is a bug: {type(error).__name__}: {printable(str(error))}", file=sys.stderr)
        print(f"  fix: please report it with {_keep_traceback()}", file=sys.stderr)
        return FAILED


def _keep_traceback() -> str:
    """Write the traceback at hand to a file and return its path; without one, return the traceback itself."""
    import tempfile
    import traceback

    text = traceback.format_exc()
    try:
        with tempfile.NamedTemporaryFile("w", prefix="frys-node-crash-", suffix=".txt", delete=False) as file:
            file.write(text)
            return file.name
    except OSError:
        return text


def report(error: object) -> None:
    """Print an error for a person: what, then the way out."""
    from frys_node.cli.terminal import printable

    message = printable(getattr(error, "message", str(error)))
    code = getattr(error, "code", "")
    hint = printable(getattr(error, "hint", ""))
    print(f"frys-node: {message}" + (f" [{code}]" if code else ""), file=sys.stderr)
    if hint:
        print(f"  fix: {hint}", file=sys.stderr)


def overview() -> str:
    """Return the text of `frys-node --help`."""
    width = max(map(len, VERBS))
    lines = ["usage: frys-node COMMAND [options]", "", "commands:"]
    lines += [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    lines += ["", "`frys-node COMMAND --help` explains one; every command takes --json."]
    return "\n".join(lines)
