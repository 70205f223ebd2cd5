"""Requests out of bytes: every way to cut them up gives the same commands, and what is wrong gets Redis' words."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.plugins.cache.resp.reader import Command, ProtocolError, RequestReader, Uniform, split_inline, too_many

ARGUMENTS_MAX = 1_000
REQUEST_BYTES_MAX = 1 << 20


def request(*words: bytes) -> bytes:
    """A command as clients send it."""
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))


def reader(*, is_trusted: bool = True) -> RequestReader:
    """A reader with the limits of these tests."""
    made = RequestReader(ARGUMENTS_MAX, REQUEST_BYTES_MAX)
    made.is_trusted = is_trusted
    return made


def feed_all(subject: RequestReader, chunks: Iterable[bytes], found: list[Command]) -> None:
    """Feed chunks and collect the commands, those before an error too."""
    try:
        for chunk in chunks:
            found += subject.feed(chunk)
    except ProtocolError as error:
        found += error.commands
        raise


WORDS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\r\n", b"*9\r\n", b"\r\n*99999\r\n", b"*1\r\n$1\r\na\r\n", b"$100000\r\n", b"x" * 300]),
    st.lists(st.binary(max_size=8), min_size=1, max_size=3).map(lambda words: request(*words)),
)
COMMANDS = st.lists(WORDS, min_size=1, max_size=6)
PIECES = st.one_of(
    COMMANDS.map(lambda words: (request(*words), [words])),
    st.just((b"*0\r\n", [])),
    st.just((b"*-1\r\n", [])),
    st.just((b"\r\n", [])),
    st.just((b"PING 'a b'\r\n", [[b"PING", b"a b"]])),
    st.just((b"get  x\n", [[b"get", b"x"]])),
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=10), st.lists(st.integers(1, 200), max_size=30), st.booleans())
def test_commands_do_not_depend_on_how_they_arrive(
    pieces: list[tuple[bytes, list[Command]]], cuts: list[int], is_trusted: bool
) -> None:
    """However the bytes are cut, by hiredis or by hand, the commands are those that were sent, in order."""
    data = b"".join(piece for piece, _ in pieces)
    wanted = [command for _, commands in pieces for command in commands]
    subject, found, at = reader(is_trusted=is_trusted), [], 0
    for size in [*cuts, len(data)]:
        chunk = data[at : at + size]
        at += size
        if chunk:
            found += subject.feed(chunk)
    assert found == wanted
    assert not subject.is_partial


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.binary(max_size=30)), min_size=8, max_size=30))
def test_a_uniform_pipeline_is_what_command_by_command_reading_finds(pairs: list[tuple[bytes, bytes]]) -> None:
    """Whatever is in the words: if a pipeline is taken as one, it is exactly the commands in it."""
    gets = b"".join(request(b"GET", key) for key, _ in pairs)
    sets = b"".join(request(b"SET", key, value) for key, value in pairs)
    found = reader().uniform(gets)
    assert found is None or found == Uniform([key for key, _ in pairs], None)
    found = reader().uniform(sets)
    assert found is None or found == Uniform([key for key, _ in pairs], [value for _, value in pairs])
    assert reader().feed(sets) == [[b"SET", key, value] for key, value in pairs]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=400))
def test_no_bytes_crash_a_reader(data: bytes) -> None:
    """Junk is commands or a protocol error, and cutting it up makes no difference to which."""
    outcomes = []
    for size in (len(data), 1):
        found: list[Command] = []
        try:
            feed_all(reader(), [data[at : at + size] for at in range(0, len(data), size)], found)
            outcomes.append((found, ""))
        except ProtocolError as error:
            outcomes.append((found, str(error)))
    assert outcomes[0] == outcomes[1]


def test_pipelines_of_one_shape_are_taken_as_one() -> None:
    """Words of equal length; a different one, a rest or a stranger is left to the careful way."""
    keys = [b"key:%04d" % number for number in range(20)]
    gets = b"".join(request(b"GET", key) for key in keys)
    sets = b"".join(request(b"set", key, b"xxx") for key in keys)
    assert reader().uniform(gets) == Uniform(keys, None)
    assert reader().uniform(sets) == Uniform(keys, [b"xxx"] * 20)
    assert reader().uniform(gets + request(b"GET", b"k")) is None
    assert reader().uniform(gets + request(b"DEL", keys[0])) is None
    assert reader().uniform(gets[:-1]) is None
    assert reader(is_trusted=False).uniform(gets) is None
    assert reader().uniform(sets[:-5] + b"yyy\r\n") is not None
    assert reader().uniform(sets.replace(b"$3\r\nxxx", b"$4\r\nxxx", 1)) is None


@pytest.mark.parametrize("size", [1, 1_000])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"*1\r\n:5\r\n", "Protocol error: expected '$', got ':'"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$a\r\n", "Protocol error: invalid bulk length"),
        (b"*a\r\n", "Protocol error: invalid multibulk length"),
        (b"*99999999\r\n", "Protocol error: invalid multibulk length"),
        (b"*2147483648\r\n", "Protocol error: invalid multibulk length"),
        (b"*99999\r\n", f"Protocol error: invalid multibulk length, {too_many(99_999, ARGUMENTS_MAX)}"),
        (b"*1\r\n>99999999999\r\n", "Protocol error: expected '$', got '>'"),
        (b"*1\r\n%1\r\n$1\r\na\r\n$1\r\nb\r\n", "Protocol error: expected '$', got '%'"),
        (b"*1\r\n*1\r\n$1\r\na\r\n", "Protocol error: expected '$', got '*'"),
        (b'"x\r\n', "Protocol error: unbalanced quotes in request"),
        (b"'x'y\r\n", "Protocol error: unbalanced quotes in request"),
    ],
)
def test_broken_requests_are_refused_as_redis_does(data: bytes, text: str, size: int) -> None:
    """The words are Redis', whether the bytes come at once or one by one, and what came before is handed out."""
    data = request(b"PING") + data
    found: list[Command] = []
    with pytest.raises(ProtocolError) as caught:
        feed_all(reader(), [data[at : at + size] for at in range(0, len(data), size)], found)
    assert str(caught.value) == text
    assert found == [[b"PING"]]


@pytest.mark.parametrize("word", [b"+OK\r\n", b"=6\r\ntxt:ab\r\n", b"(12\r\n"])
@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
@pytest.mark.parametrize("before", [b"", b"PING\r\n", request(b"PING"), b"*2\r\n$1\r\na\r\n"])
def test_a_word_that_is_no_string_is_refused_however_it_arrives(before: bytes, size: int, word: bytes) -> None:
    """What hiredis would hand out as a word, a status, a verbatim string or a big number, is none."""
    data = before + (word if before.startswith(b"*2") else b"*1\r\n" + word)
    found: list[Command] = []
    with pytest.raises(ProtocolError, match=re.escape(f"expected '$', got '{chr(word[0])}'")):
        feed_all(reader(), [data[at : at + size] for at in range(0, len(data), size)], found)
    assert found == ([[b"PING"]] if b"PING" in before else [])


def test_a_request_over_its_limit_ends_the_connection() -> None:
    """A value that is announced as small and never ends, and one that is announced as big, are both refused."""
    subject = reader()
    assert subject.feed(b"*2\r\n$3\r\nSET\r\n$9999999\r\n") == []
    with pytest.raises(ProtocolError, match="invalid bulk length"):
        feed_all(subject, [b"x" * 65_536] * 40, [])
    with pytest.raises(ProtocolError, match="too big inline request"):
        reader().feed(b"x" * 70_000)


def test_a_stranger_gets_little_room() -> None:
    """Before AUTH ten words of 16 KiB are enough, as in Redis."""
    with pytest.raises(ProtocolError, match="unauthenticated multibulk length"):
        reader(is_trusted=False).feed(b"*11\r\n")
    with pytest.raises(ProtocolError, match="unauthenticated bulk length"):
        reader(is_trusted=False).feed(b"*1\r\n$16385\r\n")
    assert reader(is_trusted=False).feed(request(b"AUTH", b"token")) == [[b"AUTH", b"token"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b"  set a  b ", [b"set", b"a", b"b"]),
        (rb'set a "x \n\x41\"" ', [b"set", b"a", b'x \nA"']),
        (rb"set a 'it\'s \n'", [b"set", b"a", rb"it's \n"]),
        (b"a\t'b'", [b"a", b"b"]),
        (b'"" x', [b"", b"x"]),
    ],
)
def test_inline_words_are_split_as_redis_does(line: bytes, words: Command) -> None:
    """Quotes hold blanks together; escapes mean something in double ones only."""
    assert split_inline(line) == words
