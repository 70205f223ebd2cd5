"""One client's session: who it is, which database it has chosen, and what its commands come to.

Sans-I/O. `plan` turns the commands of a pipeline into steps. Everything that concerns the session alone is answered
here; the rest is for the driver. Texts of errors are those of Redis 7, since clients match on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from frys_node.base.access import LOCAL, Kind, Level, Need, Principal, Resource, Verdict, decide
from frys_node.plugins.cache.cache import pack_plain, prefix_of
from frys_node.plugins.cache.changes import Change
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.reader import Command, Uniform, too_many
from frys_node.plugins.cache.resp.steps import Alter, Choice, Do, FromOutcomes, FromValues, Gets, Look, Say, Step, Store

DATABASES = 16
"""As Redis has them by default: number 0 is the namespace ``default``, number n is ``dbn``."""

QUOTED_BYTES_MAX = 128
"""What an error quotes of an unknown command's words, in all."""

QUEUED = b"+QUEUED\r\n"

ATTACK_WORDS = frozenset({b"POST", b"HOST:"})
"""The beginnings of an HTTP request: a web page that was told to talk to this port. Redis hangs up on them too."""

HTTP_VERBS = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"PRI"})
"""The other beginnings, if a path and ``HTTP/`` follow: Redis would go on to the first header."""


TRANSACTION_COMMANDS_MAX = 65_536
TRANSACTION_BYTES_MAX = 32 << 20
"""What a client may queue between MULTI and EXEC."""

CHANGES_SUBSCRIPTIONS = frozenset(
    {"subscribe", "unsubscribe", "psubscribe", "punsubscribe", "unsubscribe_all", "end_subscriptions"}
)
"""Verbs of `Do` after which other commands are allowed than before."""


class CommandError(Exception):
    """The command is refused; the text is the reply."""


class Limits(NamedTuple):
    """What the session must know of the settings."""

    key_bytes_max: int
    value_bytes_max: int
    arguments_max: int
    subscriptions_max: int


class Spec(Protocol):
    """A command of the table, as far as a session looks at it."""

    @property
    def name(self) -> str:
        """Its name in small letters."""
        ...

    @property
    def handler(self) -> Callable[[Session, Command], None]:
        """Who plans it."""
        ...

    @property
    def flags(self) -> frozenset[str]:
        """What it may do, and when it is allowed."""
        ...

    def takes(self, words: int) -> bool:
        """True if the command may have so many words."""
        ...

    def keys_of(self, command: Command) -> list[bytes]:
        """The keys among the command's words."""
        ...

    def need_of(self, command: Command) -> tuple[Level, Resource]:
        """The least role for it, and what it touches; a namespace is the one of the chosen database."""
        ...


class Redirect(NamedTuple):
    """Where a slot is served, if not here."""

    slot: int
    address: str


class Surroundings(NamedTuple):
    """What a session asks of the node."""

    commands: Mapping[bytes, Spec]
    """By their names in capitals."""
    limits: Callable[[], Limits]
    now_unix_ms: Callable[[], int]
    authenticate: Callable[[bytes], Principal | None]
    """Whose a token is, None for nobody's."""
    is_valid: Callable[[Principal], bool]
    """True while the token that somebody showed stands."""
    redirect: Callable[[bytes], Redirect | None]
    """Where the clients of a cluster find a key; None: here."""
    settings: Callable[[], Mapping[str, str]]
    """What CONFIG GET tells."""
    describe: Callable[[Session], str]
    """The line of CLIENT LIST about a session."""


class Transaction:
    """What came after MULTI."""

    __slots__ = ("_bytes", "commands", "is_spoilt", "keys")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.keys: set[bytes] = set()
        self.is_spoilt = False
        """A command was refused: EXEC will carry out none."""
        self._bytes = 0

    def add(self, command: Command, keys: Sequence[bytes]) -> None:
        """Keep a command; `CommandError` when there are too many."""
        self._bytes += sum(map(len, command))
        if len(self.commands) >= TRANSACTION_COMMANDS_MAX or self._bytes > TRANSACTION_BYTES_MAX:
            self.commands.clear()
            raise CommandError(
                f"ERR a transaction has up to {TRANSACTION_COMMANDS_MAX} commands, {TRANSACTION_BYTES_MAX} bytes in all"
            )
        self.commands.append(command)
        self.keys.update(keys)


def namespace_of(number: int) -> str:
    """Return the namespace that a database is."""
    return f"db{number}" if number else "default"


def database_prefix(number: int) -> bytes:
    """Return what stands before each key of a database."""
    return prefix_of(namespace_of(number))


class Session:
    """State of one connection."""

    def __init__(self, number: int, around: Surroundings, *, must_authenticate: bool) -> None:
        self.number = number
        self.around = around
        self.must_authenticate = must_authenticate
        self.principal: Principal | None = None
        """Who the client is, as far as it has proved that; None: nobody yet, or its token does not stand any more."""
        self.is_closing = False
        """The client said QUIT, or what makes one hang up: nothing after it is answered."""
        self.is_attack = False
        """It spoke HTTP."""
        self.name = b""
        self.library: dict[str, bytes] = {}
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, None] = {}
        self.transaction: Transaction | None = None
        self._steps: list[Step] = []
        self.protocol = 2
        self.prefix = b""
        self.choice = Choice(b"", 2)
        self.reset()

    def reset(self) -> None:
        """Begin anew as RESET does; subscriptions are the driver's to end."""
        self.speak(2)
        self.select(0)
        self.follows_redirects = False
        self.become(None if self.must_authenticate else LOCAL)
        self.name = b""
        self.transaction = None

    @property
    def is_known(self) -> bool:
        """True once nothing has to be proved any more."""
        return self.principal is not None

    def become(self, principal: Principal | None) -> None:
        """Take somebody for the one at the other end."""
        self.principal = principal
        self._is_free = principal is not None and principal.has(Level.WRITE) and not principal.is_scoped
        self._judge()

    def _judge(self) -> None:
        """Find out once what whole pipelines need: may the client read and write in the chosen database?"""
        namespace = namespace_of(self.database)
        needs = [Need(level, Resource.NAMESPACE, namespace) for level in (Level.READ, Level.WRITE)]
        self._may_read, self._may_write = (
            self.principal is not None and decide(Kind.TOKEN, self.principal, need).verdict is Verdict.ALLOW
            for need in needs
        )

    def is_current(self) -> bool:
        """True unless the client's token was revoked or has expired; then it has to prove again who it is."""
        principal = self.principal
        if principal is None or not principal.token_id or self.around.is_valid(principal):
            return True
        self.become(None)
        return False

    @property
    def subscriptions(self) -> int:
        """Channels and patterns."""
        return len(self.channels) + len(self.patterns)

    def select(self, database: int) -> None:
        """Choose a database."""
        self.database = database
        self._judge()
        self.prefix = database_prefix(database)
        self.choice = Choice(self.prefix, self.protocol)

    def speak(self, protocol: int) -> None:
        """Choose a version of the protocol."""
        self.protocol = protocol
        self.choice = Choice(self.prefix, protocol)

    # ------------------------------------------------------------------ planning

    def plan(self, commands: Sequence[Command]) -> tuple[list[Step], int]:
        """Return the steps of a pipeline, and how many of its commands they are.

        What follows a change of subscriptions can be planned only when that has been carried out.
        """
        self._steps = []
        self.is_current()
        for position, command in enumerate(commands, 1):
            self.perform(command)
            if self.is_closing:
                break
            last = self._steps[-1] if self._steps else None
            if isinstance(last, Do) and last.verb in CHANGES_SUBSCRIPTIONS:
                return self._steps, position
        return self._steps, len(commands)

    def plan_uniform(self, pipeline: Uniform) -> Step | None:
        """Plan a pipeline of one shape; None if one of its commands deserves a look of its own."""
        if not self.is_known or self.follows_redirects or self.channels or self.patterns or self.transaction:
            return None
        if not self.is_current() or not (self._may_read if pipeline.values is None else self._may_write):
            return None
        prefix, limits = self.prefix, self.around.limits()
        if len(pipeline.keys[0]) > limits.key_bytes_max:
            return None
        keys = [prefix + key for key in pipeline.keys]
        if pipeline.values is None:
            return Gets(self.choice, keys)
        if len(pipeline.values[0]) > limits.value_bytes_max:
            return None
        last = dict(zip(keys, pipeline.values, strict=True))
        return Store(self.choice, {key: pack_plain(body) for key, body in last.items()}, [encode.OK] * len(keys))

    def perform(self, command: Command) -> None:
        """Plan one command; what is refused is answered."""
        try:
            spec = self._checked(command)
            if spec is not None and self.transaction is not None and "no_queue" not in spec.flags:
                self._queue(self.transaction, spec, command)
                return
        except CommandError as error:
            text = str(error)
            if command[0].upper() == b"EXEC":
                self.transaction = None
                text = f"EXECABORT Transaction discarded because of: {text.removeprefix('ERR ')}"
            elif self.transaction is not None:
                self.transaction.is_spoilt = True
            self.say(encode.error(text))
            return
        try:
            if spec is not None:
                spec.handler(self, command)
        except CommandError as error:
            self.say(encode.error(str(error)))

    def begin_transaction(self) -> None:
        """Keep commands from now on."""
        self.transaction = Transaction()

    def _queue(self, transaction: Transaction, spec: Spec, command: Command) -> None:
        if "no_multi" in spec.flags:
            raise CommandError("ERR Command not allowed inside a transaction")
        keys = spec.keys_of(command)
        self.keys(keys)  # refuses what is no key, and what lives elsewhere if the client wants to know
        transaction.add(command, keys)
        self.say(QUEUED)

    def _checked(self, command: Command) -> Spec | None:
        """Return the entry of a command that may be carried out now; None for one that makes this end hang up.

        Raises:
            CommandError: It may not.
        """
        name = command[0].upper()
        spec = self.around.commands.get(name)
        if name in ATTACK_WORDS or (len(command) == 3 and name in HTTP_VERBS and command[2].startswith(b"HTTP/")):
            self.is_closing = self.is_attack = True
            return None
        if spec is None:
            raise CommandError(_unknown(command))
        if not spec.takes(len(command)):
            raise CommandError(f"ERR wrong number of arguments for '{spec.name}' command")
        if len(command) > self.around.limits().arguments_max:
            raise CommandError(f"ERR too many arguments, {too_many(len(command), self.around.limits().arguments_max)}")
        if not self.is_known and "no_auth" not in spec.flags:
            raise CommandError("NOAUTH Authentication required.")
        if not self._is_free:
            self._check_allowed(spec, command)
        if self.subscriptions and self.protocol == 2 and "pubsub_ok" not in spec.flags:
            raise CommandError(
                f"ERR Can't execute '{spec.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
                "are allowed in this context"
            )
        return spec

    def _check_allowed(self, spec: Spec, command: Command) -> None:
        """Raise a `CommandError` in Redis' words unless the client's role and scopes cover the command."""
        level, resource = spec.need_of(command)
        need = Need(level, resource, namespace_of(self.database))
        verdict, who = decide(Kind.TOKEN, self.principal, need)
        if verdict is Verdict.ALLOW:
            return
        if not who.has(level) or (resource is Resource.CLUSTER and "pubsub" not in spec.flags):
            raise CommandError(f"NOPERM this user has no permissions to run the '{spec.name}' command")
        what = "channels" if resource is Resource.CLUSTER else "keys"
        raise CommandError(f"NOPERM this user has no permissions to access one of the {what} used as arguments")

    # ------------------------------------------------------------------ what handlers use

    def key(self, raw: bytes) -> bytes:
        """Return the full key.

        Raises:
            CommandError: It is too long, empty, or served elsewhere and the client wants to know.
        """
        longest = self.around.limits().key_bytes_max
        if not 1 <= len(raw) <= longest:
            raise CommandError(f"ERR a key has 1 to {longest} bytes")
        if self.follows_redirects:
            redirect = self.around.redirect(raw)
            if redirect is not None:
                raise CommandError(f"MOVED {redirect.slot} {redirect.address}")
        return self.prefix + raw

    def keys(self, raw: Sequence[bytes]) -> list[bytes]:
        """Return full keys; see `key`."""
        return [self.key(key) for key in raw]

    def say(self, data: bytes) -> None:
        """Answer at once."""
        last = self._steps[-1] if self._steps else None
        if isinstance(last, Say):
            last.data += data
            last.count += 1
        else:
            self._steps.append(Say(data))

    def get(self, key: bytes) -> None:
        """Read a string."""
        last = self._steps[-1] if self._steps else None
        if isinstance(last, Gets) and last.choice is self.choice:
            last.keys.append(key)
        else:
            self._steps.append(Gets(self.choice, [key]))

    def look(self, keys: Sequence[bytes], reply: FromValues) -> None:
        """Read values and make the reply of them."""
        last = self._steps[-1] if self._steps else None
        if not isinstance(last, Look):
            last = Look()
            self._steps.append(last)
        last.keys += keys
        last.parts.append((len(keys), reply))

    def store(self, items: Mapping[bytes, bytes], reply: bytes) -> None:
        """Write packed values, whatever is there."""
        last = self._steps[-1] if self._steps else None
        if isinstance(last, Store) and last.choice is self.choice:
            last.items.update(items)
            last.replies.append(reply)
        else:
            self._steps.append(Store(self.choice, dict(items), [reply]))

    def alter(self, changes: Sequence[Change], reply: FromOutcomes) -> None:
        """Make changes and the reply of their outcomes."""
        last = self._steps[-1] if self._steps else None
        if not isinstance(last, Alter):
            last = Alter()
            self._steps.append(last)
        last.changes += changes
        last.parts.append((len(changes), reply))

    def do(self, verb: str, args: Sequence[bytes] = ()) -> None:
        """Leave it to the driver."""
        self._steps.append(Do(self.choice, verb, args))


def _unknown(command: Command) -> str:
    """Return Redis' complaint about a command that it does not know: its words up to a limit."""
    words = ""
    for word in command[1:]:
        if len(words) >= QUOTED_BYTES_MAX:
            break
        words += f"'{word[: QUOTED_BYTES_MAX - len(words)].decode(errors='replace')}' "
    name = command[0][:QUOTED_BYTES_MAX].decode(errors="replace")
    return f"ERR unknown command '{name}', with args beginning with: {words}"
