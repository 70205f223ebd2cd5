"""What the demonstration measures itself: a check of its report must fail when the thing is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess
from frys_node.demo.console import Console, DemoFailed
from frys_node.demo.strip import KILLED, Sample, Strip


def _strip(tmp_path: Path, *samples: tuple[float, float | None]) -> Strip:
    strip = Strip(NodeProcess("n", tmp_path), "digits", [], Console())
    strip.samples = [Sample(*sample) for sample in samples]
    return strip


def test_a_search_that_falls_silent_for_good_has_a_gap_to_the_end(tmp_path: Path) -> None:
    """Nothing answered after the kill: the gap runs from the last answer to the end of the window, and is not zero."""
    strip = _strip(tmp_path, (9.0, 0.5), (10.0, None), (11.0, None))
    assert strip.gap_ms(9.6, 15.0) == pytest.approx(5_500)
    assert strip.failed(9.6) == 2


def test_the_gap_is_the_longest_time_between_answers(tmp_path: Path) -> None:
    """Failures between two answers do not shorten it, and answers after the window do not count."""
    strip = _strip(tmp_path, (9.0, 0.5), (10.0, None), (11.0, 0.5), (11.9, 0.1), (12.0, 1.0))
    assert strip.gap_ms(9.6, 12.5) == pytest.approx(2_000)


def test_the_strip_marks_the_kill_and_shows_failures(tmp_path: Path) -> None:
    """One block a request, the mark before the first one that was sent after the kill, a failure as x."""
    strip = _strip(tmp_path, (1.0, 0.001), (2.0, 1.0), (3.0, None))
    assert strip.line() == "▁█x"
    strip.killed_s = 1.5
    assert strip.line() == f"▁{KILLED}█x"
    assert strip.around_kill() == f"▁{KILLED}█x"
    assert strip.line(2) == "█x"


def test_a_wait_shows_what_it_waits_for_unless_its_probe_says_more(capsys: pytest.CaptureFixture[str]) -> None:
    """A progress line on every wait; one that a probe prints is not written over."""
    console = Console()
    answers = iter([False, True])
    console.wait("a thing", lambda: next(answers))
    answers = iter([False, True])

    def probe() -> bool:
        console.progress("  steps committed")
        return next(answers)

    console.wait("a run", probe)
    shown = capsys.readouterr().err
    assert "... a thing" in shown
    assert "steps committed" in shown
    assert "a run" not in shown


def test_a_wait_that_ends_in_vain_is_an_error_that_names_it() -> None:
    """The demonstration stops at the first thing that does not happen."""
    with pytest.raises(DemoFailed, match="waited 0 s for the moon"):
        Console().wait("the moon", lambda: None, timeout_s=0.0)


def test_a_report_with_one_failed_check_does_not_hold() -> None:
    """The exit code of the demonstration follows every line."""
    console = Console()
    console.check("a", True, "fine")
    assert console.report()
    console.check("b", False, "broken")
    assert not console.report()
