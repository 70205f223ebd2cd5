"""MULTI, EXEC, DISCARD: commands that are kept and then carried out in one go.

Sans-I/O. What clients get is Redis' conversation, for their pipelines depend on it, and a part of its promise: the
commands of one transaction are carried out in their order, all of them or, when one was refused while they were
collected, none. They are **not isolated**: another client's command may come in between. And nothing is rolled back:
as in Redis, a command that fails has its error among the replies, and the others are carried out.

WATCH is refused. It would have to hold between the look at the keys and the end of EXEC, on several nodes, and whoever
sends it relies on that.
"""

from __future__ import annotations

from frys_node.base.units import slot_of
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.reader import Command
from frys_node.plugins.cache.resp.session import CommandError, Session

NO_WATCH = (
    "ERR WATCH is not supported: transactions are not isolated here. Use SET with NX, XX or GET, INCR, or If-Match "
    "over HTTP"
)


def multi(session: Session, command: Command) -> None:
    """MULTI."""
    del command
    if session.transaction is not None:
        raise CommandError("ERR MULTI calls can not be nested")
    session.begin_transaction()
    session.say(encode.OK)


def discard(session: Session, command: Command) -> None:
    """DISCARD."""
    del command
    if session.transaction is None:
        raise CommandError("ERR DISCARD without MULTI")
    session.transaction = None
    session.say(encode.OK)


def exec_(session: Session, command: Command) -> None:
    """EXEC: an array with the reply to each command."""
    del command
    transaction = session.transaction
    if transaction is None:
        raise CommandError("ERR EXEC without MULTI")
    session.transaction = None
    if transaction.is_spoilt:
        raise CommandError("EXECABORT Transaction discarded because of previous errors.")
    if session.follows_redirects and len({slot_of(key) for key in transaction.keys}) > 1:
        raise CommandError("CROSSSLOT Keys in request don't hash to the same slot")
    session.say(b"*%d\r\n" % len(transaction.commands))
    for queued in transaction.commands:
        session.perform(queued)


def watch(session: Session, command: Command) -> None:
    """WATCH: refused."""
    del command
    if session.transaction is not None:
        raise CommandError("ERR WATCH inside MULTI is not allowed")
    raise CommandError(NO_WATCH)


def unwatch(session: Session, command: Command) -> None:
    """UNWATCH: nothing is watched."""
    del command
    session.say(encode.OK)
