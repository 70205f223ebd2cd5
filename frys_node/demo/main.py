"""`frys-node demo`: from nothing to a live cluster, through a crash, a join and a leave, in under two minutes.

Every claim is measured on the processes that were started, from outside, over HTTP; the report's lines are checks and
the exit code says whether all of them held.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from frys_node.base.errors import FrysError
from frys_node.cli.main import report as report_error
from frys_node.demo.chapters import Story
from frys_node.demo.console import Console


def main(*, json_output: bool = False, keep: bool = False, directory: str | None = None) -> int:
    """Tell the whole story; returns 0 if every check held."""
    keep = keep or os.environ.get("KEEP") == "1"
    console = Console()
    home = Path(directory or tempfile.mkdtemp(prefix="frys-demo-")).resolve()
    story = Story(console, home)
    started = time.monotonic()
    failed = True
    try:
        story.tell()
        if keep:
            story.hand_over()
        failed = False
    except FrysError as error:
        report_error(error)
        story.show_logs()
        console.check("story", False, f"ended early: {error.message}")
    except KeyboardInterrupt:
        console.check("story", False, "interrupted")
        keep = False
    finally:
        if not keep:
            story.stop()
    held = console.report() and not failed
    if json_output:
        checks = [{"name": c.name, "ok": c.ok, "text": c.text} for c in console.checks]
        print(json.dumps({"ok": held, "seconds": round(time.monotonic() - started, 1), "checks": checks}))
    if keep:
        story.say_what_next()
    elif directory is None:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if held else 1
