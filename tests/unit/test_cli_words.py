"""The command line's own words: verbs, exit codes, tables, durations, and what happens to a bug."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from frys_node.base.errors import ConfigError, DeadlineExceeded, FrysError, NodeUnreachable, UsageError
from frys_node.cli import main as cli
from frys_node.cli.admin import bytes_text, table
from frys_node.cli.arguments import seconds_of
from frys_node.cli.launch import banner, choose_data_dir, host_name
from frys_node.cli.places import NodeNotFound, find_data_dir, unreachable

COMMAND = re.compile(r"(?<![\w/.-])frys-node (?!that |command |runs )([a-z][a-z-]*)(?: ([a-z]+))?")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["membres"], 2),
        (["members", "--nonsense"], 2),
        *((["members", "--data-dir", "x", "--timeout", text], 2) for text in ("0", "-1", "nan", "inf", "soon", "31d")),
        (["why", ""], 2),
        (["force-leave", ""], 2),
        (["rtt", ""], 2),
        (["node", "set", "", "v"], 2),
        (["query", "ping", "--timeout", "soon"], 2),
        (["why", "b\udcff", "--data-dir", "x"], 2),
        (["event", "e", "\udcff", "--data-dir", "x"], 2),
        (["members", "--data-dir", "\udcff"], 3),
    ],
)
def test_help_is_success_and_mistakes_are_usage_errors(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asking for help exits 0; an unknown verb or option exits 2 and names the nearest verb."""
    assert cli.main(arguments) == code
    shown = capsys.readouterr().err
    if arguments == ["membres"]:
        assert "did you mean 'members'" in shown
    assert not re.search(r"_seconds|a bug|nothing is served", shown)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FrysError("no"), 1),
        (UsageError("no"), 2),
        (ConfigError("no"), 2),
        (NodeUnreachable("no"), 3),
        (DeadlineExceeded("no"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """0 ok, 1 failed, 2 usage, 3 cannot reach a node, 4 timed out, 130 interrupted."""

    def run(_: argparse.Namespace) -> int:
        raise error

    assert cli._guarded(run, argparse.Namespace()) == code


def test_every_error_that_a_node_answers_keeps_its_code_and_exit_code() -> None:
    """In a fresh process the command knows each code of the sources, so that none becomes `remote.unknown`."""
    packages = [ROOT / name for name in ("frys_node", "membership", "balancer", "snapshots")]
    texts = [path.read_text() for package in packages for path in package.rglob("*.py")]
    codes = sorted({code for text in texts for code in re.findall(r'^    code = "([a-z_.]+)"$', text, re.MULTILINE)})
    answered = [
        code for code in codes if code.partition(".")[0] not in {"bench", "cli", "client", "demo", "sim", "remote"}
    ]
    assert "transport.connect_failed" in answered
    probe = (
        "import sys; from frys_node.client.errors import error_of\n"
        "for code in sys.argv[1:]: print(error_of({'error': {'code': code}}, 500).code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *answered], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == answered


def test_a_bug_is_one_line_and_its_traceback_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """An unforeseen exception prints no traceback but names the file that holds it."""

    def run(_: argparse.Namespace) -> int:
        raise ZeroDivisionError("seven")

    assert cli._guarded(run, argparse.Namespace()) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    kept = re.search(r"(\S+frys-node-crash-\S+\.txt)", shown)
    assert kept is not None
    path = Path(kept[1])
    assert "ZeroDivisionError: seven" in path.read_text()
    path.unlink()


def test_tables_align_numbers_right_and_show_what_is_missing() -> None:
    """Columns of numbers are right-aligned, None is a dash, an empty table still has its header."""
    assert table([("a", 5), ("bc", None)], ("NAME", "N")) == "NAME  N\na     5\nbc    -"
    assert table([], ("NAME", "N")) == "NAME  N"
    assert [bytes_text(value) for value in (0, 1023, 1536, 5 << 20)] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]


def test_durations_are_read_with_their_unit() -> None:
    """90s, 10m, 1h, 7d and plain seconds are durations; anything else is refused with an example."""
    texts = ("90s", "10m", "1.5h", "7d", "30", "0.5", "500ms")
    assert [seconds_of(text) for text in texts] == [90, 600, 5400, 604_800, 30, 0.5, 0.5]
    for wrong in ("", "h", "ms", "-1s", "0", "0ms", "1w", "1 h"):
        with pytest.raises(UsageError):
            seconds_of(wrong)


def test_the_data_directory_is_given_or_the_only_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb finds its node by flag, environment or as the sole directory; several are listed, none is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FRYS_DATA_DIR", raising=False)
    assert find_data_dir("x") == Path("x")
    with pytest.raises(NodeNotFound):
        find_data_dir(None)
    (tmp_path / "frys-data" / "one").mkdir(parents=True)
    (tmp_path / "frys-data" / ".joining-77").mkdir()
    assert find_data_dir(None) == Path("frys-data/one")
    (tmp_path / "frys-data" / "two").mkdir()
    with pytest.raises(NodeNotFound, match="one, frys-data/two"):
        find_data_dir(None)
    monkeypatch.setenv("FRYS_DATA_DIR", "y")
    assert find_data_dir(None) == Path("y")


def test_a_directory_where_no_node_answers_is_told_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`start` is the fix only for a node's own directory: elsewhere it would found a second cluster."""
    monkeypatch.chdir(tmp_path)
    node = tmp_path / "frys-data" / "a"
    (node / "identity").mkdir(parents=True)
    wrong = unreachable(tmp_path / "nowhere", None)
    assert "no node's data is in" in wrong.message
    assert "--data-dir" in wrong.hint
    assert "frys-node start" not in wrong.hint
    (node / "identity" / "identity.json").touch()
    assert "nodes found: frys-data/a" in unreachable(tmp_path / "nowhere", None).hint
    assert "frys-node start --data-dir" in unreachable(node, None).hint
    (node / "identity" / "left").touch()
    left = unreachable(node, None)
    assert "has left" in left.message
    assert "frys-node start" not in left.hint
    assert "another user's" in unreachable(node, PermissionError()).message


def _identity(home: Path, name: str) -> None:
    """Make a directory look like a node's."""
    identity = home / "frys-data" / name / "identity"
    identity.mkdir(parents=True)
    (identity / "identity.json").touch()


def test_a_start_takes_the_sole_identity_here_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --data-dir an existing identity is reused; a joiner without one waits for the name it is given."""
    monkeypatch.chdir(tmp_path)
    assert choose_data_dir("", "n", name_chosen=False, joining=False) == Path("frys-data/n")
    assert choose_data_dir("", "n", name_chosen=False, joining=True) is None
    _identity(tmp_path, "a")
    assert choose_data_dir("", "n", name_chosen=False, joining=True) == Path("frys-data/a")
    _identity(tmp_path, "b")
    with pytest.raises(UsageError, match="several"):
        choose_data_dir("", "n", name_chosen=False, joining=False)
    assert re.fullmatch(r"[a-z0-9-]{1,48}", host_name())


def test_a_name_picks_its_own_directory_and_never_another_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`join --name b` beside a node named a is a new node; `start --name b` there is refused with what to do."""
    monkeypatch.chdir(tmp_path)
    _identity(tmp_path, "a")
    assert choose_data_dir("", "b", name_chosen=True, joining=True) is None
    with pytest.raises(UsageError, match="frys-data/a, and none is named 'b'") as caught:
        choose_data_dir("", "b", name_chosen=True, joining=False)
    assert "frys-node start --data-dir frys-data/a" in caught.value.hint
    _identity(tmp_path, "b")
    for joining in (True, False):
        assert choose_data_dir("", "b", name_chosen=True, joining=joining) == Path("frys-data/b")


def test_the_banner_holds_the_exact_join_line() -> None:
    """What a person copies to the next machine is a whole command."""
    info = {
        "name": "a",
        "cluster": "frys",
        "address": "10.0.0.1:7946",
        "http": "127.0.0.1:8080",
        "scheme": "https",
        "data_dir": "frys-data/a",
        "issuer": "a",
        "security": "post-quantum confidentiality, classical authentication",
        "join_local": "127.0.0.1:7946",
        "join_remote": "10.0.0.1:7946",
        "join_token_file": "frys-data/a/join-token",
        "waits_for": [],
        "notes": ["port 7946 was busy"],
    }
    text = banner(info)
    assert text.startswith("node a of cluster frys is ready\n")
    assert "  frys-node join --seed 127.0.0.1:7946\n" in text
    assert "frys-node join --seed 10.0.0.1:7946 --token-file join-token" in text
    assert "port 7946 was busy" in text
    assert "  security post-quantum confidentiality, classical authentication\n" in text
    assert "  http     https://127.0.0.1:8080\n" in text
    for token in ("", "frys-data/a/join-token"):
        local = {"join_remote": "", "for_others": "--bind 0.0.0.0:7946", "join_token_file": token}
        lines = banner(info | local | {"address": "127.0.0.1:7946"})
        assert lines.count("frys-node join") == 1
        assert "other machines cannot reach 127.0.0.1:7946" in lines
        assert "  frys-node start --data-dir frys-data/a --bind 0.0.0.0:7946\n" in lines + "\n"
    unready = banner(info | {"waits_for": ["workflow: failed: the disk is full"]})
    assert unready.startswith("node a of cluster frys runs, and is not ready yet\n")
    assert "  waits    workflow: failed: the disk is full\n" in unready


@pytest.mark.parametrize("line", [["start", "--det"], ["join", "--seed", "127.0.0.1:1", "--det"]])
def test_options_are_not_abbreviated(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--det` is a mistake: the process in the background would have started one of its own, and so on."""
    assert cli.main(line) == cli.USAGE
    assert "--det" in capsys.readouterr().err


def test_every_command_that_a_message_names_exists() -> None:
    """A hint such as `frys-node workflow runs` is a fix only if it can be typed: verb and action are real."""
    named: set[tuple[str, str]] = set()
    for package in ("frys_node", "membership", "balancer", "snapshots", "deploy", "docs", "README.md"):
        path = ROOT / package
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.suffix in (".py", ".md", ".txt", ".yaml", ".tpl", ".service") and "adr" not in file.parts:
                named.update(COMMAND.findall(file.read_text(encoding="utf-8")))
    assert len(named) > 15
    for verb, action in sorted(named):
        assert verb in cli.VERBS, f"frys-node {verb} {action}"
        parser = argparse.ArgumentParser()
        importlib.import_module(cli.module_of(verb)).add_arguments(parser)
        actions = [each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        if actions and action and verb != "ring":
            assert action in actions[0], f"frys-node {verb} {action}"
