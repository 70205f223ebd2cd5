"""`frys-node workflow` against a live engine: waiting, its limit, and how a failed run is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.cli.cli_rig import CommandLine, command_line
from tests.integration.workflow.workflow_rig import open_rig


@asynccontextmanager
async def engine(home: Path) -> AsyncIterator[CommandLine]:
    """One node that holds a waiting request open for a twentieth of a second, and commands for it."""
    async with (
        open_rig(home, nodes=("n1",), wait_max_s=0.05) as rig,
        command_line(home / "cli", rig.nodes["n1"].http, "/v1/runs") as cli,
    ):
        yield cli


async def test_waiting_for_a_run_lasts_until_its_end_and_not_only_one_request(tmp_path: Path) -> None:
    """A wait longer than the node holds one request open goes on asking, and prints the output with exit code 0."""
    async with engine(tmp_path) as cli:
        done = await cli.run("workflow", "start", "sleeping", "--input", "0.6", "--wait")
        assert (done.code, 'output: "awake"' in done.out) == (0, True), done
        await cli.run("workflow", "start", "sleeping", "--input", "0.6", "--id", "nap")
        done = await cli.run("workflow", "result", "nap")
        assert (done.code, done.out) == (0, '"awake"\n'), done


async def test_a_wait_that_is_over_names_the_run_and_exits_4(tmp_path: Path) -> None:
    """A run that outlives --timeout is named with the command that waits again, also when its id was not chosen."""
    async with engine(tmp_path) as cli:
        done = await cli.run("workflow", "start", "sleeping", "--input", "60", "--wait", "--timeout", "0.3")
        assert (done.code, done.out) == (4, ""), done
        run = done.err.partition("run ")[2].partition(" ")[0]
        assert f"frys-node workflow result {run}" in done.err
        shown = await cli.run("workflow", "show", run)
        assert (shown.code, "sleeping  waiting" in shown.out) == (0, True), shown


async def test_a_faulted_run_shows_its_error_in_words_and_exits_1(tmp_path: Path) -> None:
    """The type, the message and where it was raised are lines for people, not a dict of Python."""
    async with engine(tmp_path) as cli:
        done = await cli.run("workflow", "start", "faulting", "--input", "7", "--wait")
        assert done.code == 1
        assert "\nerror: ValueError: step fails failed: ValueError: no 7\n  " in done.out
        assert "{" not in done.out
