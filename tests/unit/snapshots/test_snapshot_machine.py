"""The transfer machine: window, retries, one abort edge, and any order of events."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.base.errors import NodeUnreachable
from frys_node.base.types import UnitId
from snapshots.chunking import Chunker
from snapshots.errors import TransferAborted
from snapshots.machine import ATTEMPTS_MAX, Discard, Effect, Fetch, Keep, Transfer, TransferState, Verify
from snapshots.manifest import Manifest
from snapshots.pace import Pace

SIZE = 16


def _state(chunks: int, seed: int = 1) -> tuple[Manifest, dict[bytes, bytes]]:
    chunker = Chunker(UnitId("cache/1"), SIZE)
    made = chunker.push(random.Random(seed).randbytes(chunks * SIZE - 3))
    rest, manifest = chunker.finish()
    return manifest, {ref.digest: data for ref, data in made + rest}


def test_the_window_bounds_what_is_asked_for() -> None:
    """Credit returns only when a chunk is stored."""
    manifest, data = _state(10)
    transfer = Transfer(manifest, window=3)
    effects = transfer.begin(lambda digest: False, 0.0)
    assert [type(effect) for effect in effects] == [Fetch] * 3
    assert transfer.state is TransferState.TRANSFERRING
    first = manifest.chunks[0]
    assert transfer.received(first.digest, data[first.digest], 0.1) == [Keep(first, data[first.digest])]
    assert transfer.stored(first.digest, 0.2) == [Fetch(manifest.chunks[3], 0.2)]


def test_chunks_that_are_here_are_not_asked_for() -> None:
    """A complete store goes straight to verifying; an empty state too."""
    manifest, data = _state(5)
    transfer = Transfer(manifest)
    assert transfer.begin(lambda digest: digest in data, 0.0) == [Verify(manifest)]
    assert transfer.reused_bytes == manifest.size_bytes
    transfer.installed()
    assert transfer.state is TransferState.INSTALLED
    empty = Chunker(UnitId("cache/1")).finish()[1]
    assert Transfer(empty).begin(lambda digest: False, 0.0) == [Verify(empty)]


def test_a_repeated_chunk_is_asked_for_once() -> None:
    """Equal content travels once."""
    chunker = Chunker(UnitId("cache/1"), SIZE)
    chunker.push(b"z" * SIZE * 50)
    manifest = chunker.finish()[1]
    transfer = Transfer(manifest)
    [fetch] = transfer.begin(lambda digest: False, 0.0)
    assert isinstance(fetch, Fetch)
    transfer.received(fetch.chunk.digest, b"z" * SIZE, 0.0)
    assert transfer.stored(fetch.chunk.digest, 0.0) == [Verify(manifest)]
    assert (transfer.fetched_bytes, transfer.reused_bytes) == (SIZE, SIZE * 49)


def test_a_corrupt_chunk_is_asked_for_again_and_given_up_in_the_end() -> None:
    """Pauses double; after the last try there is one abort with the reason."""
    manifest, _ = _state(1)
    digest = manifest.chunks[0].digest
    transfer = Transfer(manifest)
    transfer.begin(lambda held: False, 0.0)
    pauses = []
    for _ in range(ATTEMPTS_MAX - 1):
        [effect] = transfer.received(digest, b"wrong", 10.0)
        assert isinstance(effect, Fetch)
        pauses.append(effect.at_s - 10.0)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2])
    [last] = transfer.received(digest, b"wrong", 10.0)
    assert isinstance(last, Discard)
    assert isinstance(last.error, TransferAborted)
    assert transfer.state is TransferState.ABORTED
    assert transfer.corrupt_chunks == ATTEMPTS_MAX
    assert transfer.received(digest, b"late", 11.0) == transfer.failed(digest, last.error, 11.0) == []
    assert transfer.abort(last.error) == []


@pytest.mark.parametrize("state", [TransferState.OFFERED, TransferState.TRANSFERRING, TransferState.VERIFYING])
def test_every_state_but_the_ends_has_one_abort_edge(state: TransferState) -> None:
    """And the ends have none."""
    manifest, data = _state(3)
    transfer = Transfer(manifest)
    if state is TransferState.TRANSFERRING:
        transfer.begin(lambda digest: False, 0.0)
    elif state is TransferState.VERIFYING:
        transfer.begin(lambda digest: digest in data, 0.0)
    assert transfer.state is state
    error = NodeUnreachable()
    assert transfer.abort(error) == [Discard(error)]
    assert transfer.abort(error) == []


def test_bytes_that_nobody_asked_for_are_ignored() -> None:
    """A late or invented chunk changes nothing."""
    manifest, data = _state(4)
    transfer = Transfer(manifest, window=1)
    transfer.begin(lambda digest: False, 0.0)
    later = manifest.chunks[2].digest
    assert transfer.received(later, data[later], 0.0) == []
    assert transfer.received(b"?" * 32, b"", 0.0) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**32), st.floats(0, 0.4))
def test_any_order_of_answers_losses_and_corruption_ends_whole_or_aborted(
    chunks: int, window: int, seed: int, trouble: float
) -> None:
    """The machine never hangs, never exceeds its window, and verifies only with everything stored."""
    manifest, data = _state(chunks, seed)
    rng = random.Random(seed)
    held = {digest for digest in data if rng.random() < 0.2}
    transfer = Transfer(manifest, window=window)
    todo: deque[Effect] = deque(transfer.begin(held.__contains__, 0.0))
    now_s = 0.0
    for _ in range(10_000):
        if not todo:
            break
        asked = sum(isinstance(effect, Fetch | Keep) for effect in todo)
        assert asked <= window
        todo.rotate(rng.randrange(len(todo)))
        effect = todo.popleft()
        now_s += 0.01
        if isinstance(effect, Fetch):
            draw = rng.random()
            if draw < trouble / 2:
                todo.extend(transfer.failed(effect.chunk.digest, NodeUnreachable(), now_s))
            else:
                answer = data[effect.chunk.digest] if draw >= trouble else b"?"
                todo.extend(transfer.received(effect.chunk.digest, answer, now_s))
        elif isinstance(effect, Keep):
            held.add(effect.chunk.digest)
            todo.extend(transfer.stored(effect.chunk.digest, now_s))
        elif isinstance(effect, Verify):
            assert held >= {chunk.digest for chunk in manifest.chunks}
            transfer.installed()
        else:
            todo.clear()
    assert transfer.state in (TransferState.INSTALLED, TransferState.ABORTED)
    progress = transfer.progress(now_s)
    assert 0 <= progress.bytes_done <= progress.bytes_total
    assert transfer.state is not TransferState.INSTALLED or progress.bytes_done == progress.bytes_total


def test_progress_has_a_rate_and_an_end_in_sight() -> None:
    """10 chunks, one a second."""
    manifest, data = _state(10)
    transfer = Transfer(manifest, window=1)
    transfer.begin(lambda digest: False, 0.0)
    assert transfer.progress(0.0).eta_s is None
    for second, chunk in enumerate(manifest.chunks[:5], 1):
        transfer.received(chunk.digest, data[chunk.digest], float(second))
        transfer.stored(chunk.digest, float(second))
    progress = transfer.progress(5.0)
    assert progress.rate_bytes_s == pytest.approx(SIZE)
    assert progress.eta_s == pytest.approx((manifest.size_bytes - 5 * SIZE) / SIZE)


def test_a_pace_spreads_bytes_and_allows_a_short_burst() -> None:
    """1,000 bytes a second: ten chunks of 100 take about a second; zero means no bound."""
    pace = Pace(1_000.0)
    starts = [pace.reserve(100, 10.0) for _ in range(10)]
    assert starts[0] == starts[1] == starts[2] == 10.0
    assert starts[-1] == pytest.approx(10.65)
    assert pace.reserve(100, 100.0) == 100.0
    pace.rate_bytes_s = 0.0
    assert pace.reserve(10**9, 100.0) == 100.0
