"""Commands about the connection: who it is, what it speaks, what the server says of itself.

Sans-I/O.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from frys_node.base.access import Kind, Level, Need, Resource, Verdict, decide
from frys_node.plugins.cache.changes import parse_integer
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.reader import Command
from frys_node.plugins.cache.resp.session import DATABASES, CommandError, Session
from frys_node.plugins.cache.resp.subcommands import HELP, SUBCOMMANDS

SERVER = "redis"
"""What HELLO calls the server: clients look for it."""

REDIS_VERSION = "7.0.15"
"""The version whose answers these are."""

CURSOR_MAX = (1 << 64) - 1

WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled."


LISTENING = Need(Level.READ, Resource.CLUSTER)
"""What channels need."""


def ping(session: Session, command: Command) -> None:
    """PING [message]; a subscriber in RESP2 gets it as a message."""
    if len(command) > 2:
        raise CommandError("ERR wrong number of arguments for 'ping' command")
    if session.subscriptions and session.protocol == 2:
        session.say(encode.bulks([b"pong", command[1] if len(command) > 1 else b""]))
    elif len(command) > 1:
        session.say(encode.bulk(command[1]))
    else:
        session.say(b"+PONG\r\n")


def echo(session: Session, command: Command) -> None:
    """ECHO message."""
    session.say(encode.bulk(command[1]))


def quit_(session: Session, command: Command) -> None:
    """QUIT."""
    del command
    session.is_closing = True
    session.say(encode.OK)


def reset(session: Session, command: Command) -> None:
    """RESET: as a new connection would be."""
    del command
    session.reset()
    session.do("unsubscribe_all")


def select(session: Session, command: Command) -> None:
    """SELECT number."""
    database = parse_integer(command[1])
    if database is None:
        raise CommandError("ERR value is not an integer or out of range")
    if not 0 <= database < DATABASES:
        raise CommandError("ERR DB index is out of range")
    session.select(database)
    session.say(encode.OK)


def _prove(session: Session, user: bytes, token: bytes) -> None:
    principal = session.around.authenticate(token)
    if principal is None or user not in (b"default", b"admin", principal.token_id.encode()):
        raise CommandError(WRONGPASS)
    session.become(principal)
    if session.subscriptions and decide(Kind.TOKEN, principal, LISTENING).verdict is not Verdict.ALLOW:
        # They were the former token's, and are not to outlive its revocation.
        session.do("end_subscriptions")


def auth(session: Session, command: Command) -> None:
    """AUTH [username] token: an API token, or the admin token. The username is ``default`` or the token's id."""
    if len(command) > 3:
        raise CommandError(encode.SYNTAX)
    is_needed = session.must_authenticate
    if len(command) == 2 and not is_needed and session.around.authenticate(command[1]) is None:
        # Redis' words for a server without a password.
        raise CommandError(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    _prove(session, command[1] if len(command) == 3 else b"default", command[-1])
    session.say(encode.OK)


def hello(session: Session, command: Command) -> None:
    """HELLO [2 | 3 [AUTH username token] [SETNAME name]]."""
    protocol = session.protocol
    words = iter(command[1:])
    version = next(words, None)
    if version is not None:
        number = parse_integer(version)
        if number is None:
            raise CommandError("ERR Protocol version is not an integer or out of range")
        if number not in (2, 3):
            raise CommandError("NOPROTO unsupported protocol version")
        protocol = number
    name = session.name
    for word in words:
        match word.upper():
            case b"AUTH" if (user := next(words, None)) is not None and (token := next(words, None)) is not None:
                _prove(session, user, token)
            case b"SETNAME" if (new := next(words, None)) is not None:
                name = _name(new, "Client names")
            case _:
                raise CommandError(f"ERR Syntax error in HELLO option '{word.decode(errors='replace')}'")
    if not session.is_known:
        raise CommandError(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH "
            "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the "
            "same time"
        )
    session.speak(protocol)
    session.name = name
    facts = {
        "server": SERVER,
        "version": REDIS_VERSION,
        "proto": protocol,
        "id": session.number,
        "mode": "cluster",
        "role": "master",
        "modules": [],
    }
    session.say(encode.encode(facts, protocol))


def _name(text: bytes, what: str) -> bytes:
    if any(not 0x21 <= byte <= 0x7E for byte in text):
        raise CommandError(f"ERR {what} cannot contain spaces, newlines or special characters.")
    return text


def client(session: Session, command: Command) -> None:
    """CLIENT SETNAME, GETNAME, SETINFO, ID, INFO, LIST, NO-EVICT, NO-TOUCH."""
    verb, rest = command[1].upper(), command[2:]
    match verb, len(rest):
        case b"SETNAME", 1:
            session.name = _name(rest[0], "Client names")
            session.say(encode.OK)
        case b"GETNAME", 0:
            session.say(encode.bulk(session.name) if session.name else encode.null(session.protocol))
        case b"SETINFO", 2:
            _set_info(session, rest)
        case b"ID", 0:
            session.say(encode.integer(session.number))
        case b"INFO", 0:
            session.say(encode.text(f"{session.around.describe(session)}\n", session.protocol))
        case b"LIST", _:
            session.do("client_list", _clients_wanted(rest))
        case ((b"NO-EVICT" | b"NO-TOUCH"), 1) if rest[0].upper() in (b"ON", b"OFF"):
            session.say(encode.OK)
        case ((b"NO-EVICT" | b"NO-TOUCH"), 1):
            raise CommandError(encode.SYNTAX)
        case _:
            other_subcommand(session, command)


CLIENT_TYPES = (b"NORMAL", b"MASTER", b"REPLICA", b"SLAVE", b"PUBSUB")


def _clients_wanted(words: Command) -> list[bytes]:
    """Return the words after CLIENT LIST: none, TYPE and one of `CLIENT_TYPES`, or ID and numbers."""
    verb = words[0].upper() if words else b""
    if verb == b"TYPE" and len(words) == 2:
        if words[1].upper() not in CLIENT_TYPES:
            raise CommandError(f"ERR Unknown client type '{words[1].decode(errors='replace')}'")
    elif verb == b"ID" and len(words) > 1:
        if any(parse_integer(word) is None for word in words[1:]):
            raise CommandError("ERR Invalid client ID")
    elif words:
        raise CommandError(encode.SYNTAX)
    return [word.upper() for word in words]


def _set_info(session: Session, words: Command) -> None:
    attribute = words[0].upper()
    if attribute not in (b"LIB-NAME", b"LIB-VER"):
        raise CommandError(f"ERR Unrecognized option '{words[0].decode(errors='replace')}'")
    kind = attribute.decode().lower()
    session.library[kind] = _name(words[1], kind)
    session.say(encode.OK)


def other_subcommand(session: Session, command: Command) -> None:
    """Answer HELP, refuse anything else.

    Raises:
        CommandError: It is not HELP.
    """
    lines = HELP.get(command[0].decode(errors="replace").upper())
    if lines is None or command[1].upper() != b"HELP" or len(command) > 2:
        raise CommandError(unknown_subcommand(command))
    head = f"{command[0].decode().upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    session.say(encode.array([encode.simple(line) for line in (head, *lines, "HELP", "    Print this help.")]))


def unknown_subcommand(command: Command) -> str:
    """Return Redis' complaint about a subcommand that it does not know, or that has too many or too few words."""
    name = command[0].decode(errors="replace").upper()
    verb = command[1][:128]
    if verb.upper() in SUBCOMMANDS.get(name, ()) or (name in HELP and verb.upper() == b"HELP"):
        return f"ERR wrong number of arguments for '{name.lower()}|{verb.lower().decode()}' command"
    return f"ERR unknown subcommand '{verb.decode(errors='replace')}'. Try {name} HELP."


def config(session: Session, command: Command) -> None:
    """CONFIG GET pattern [pattern ...]; settings are changed in the node's file."""
    if command[1].upper() != b"GET" or len(command) < 3:
        other_subcommand(session, command)
        return
    patterns = [pattern.decode(errors="replace").lower() for pattern in command[2:]]
    settings = session.around.settings()
    found = {name: text for name, text in settings.items() if any(fnmatchcase(name, p) for p in patterns)}
    session.say(encode.encode(found, session.protocol))


def info(session: Session, command: Command) -> None:
    """INFO [section ...]."""
    session.do("info", [section.lower() for section in command[1:]])


def readonly(session: Session, command: Command) -> None:
    """READONLY: any node may answer, as they do anyway."""
    del command
    session.follows_redirects = False
    session.say(encode.OK)


def readwrite(session: Session, command: Command) -> None:
    """READWRITE: tell this client where keys live (MOVED) instead of serving them from here."""
    del command
    session.follows_redirects = True
    session.say(encode.OK)


def publish(session: Session, command: Command) -> None:
    """PUBLISH channel message."""
    session.do("publish", command[1:])


def subscribe(session: Session, command: Command) -> None:
    """SUBSCRIBE and UNSUBSCRIBE, PSUBSCRIBE and PUNSUBSCRIBE."""
    session.do(command[0].lower().decode(), command[1:])


def pubsub(session: Session, command: Command) -> None:
    """PUBSUB CHANNELS [pattern], NUMSUB [channel ...], NUMPAT: of this node."""
    verb = command[1].upper()
    words_max = {b"CHANNELS": 3, b"NUMSUB": len(command), b"NUMPAT": 2}
    if len(command) > words_max.get(verb, 0):
        other_subcommand(session, command)
        return
    session.do("pubsub", command[1:])


def cluster(session: Session, command: Command) -> None:
    """CLUSTER SLOTS, SHARDS, NODES, INFO, MYID, KEYSLOT."""
    verb, rest = command[1].upper(), command[2:]
    match verb, len(rest):
        case ((b"SLOTS" | b"SHARDS" | b"NODES" | b"INFO" | b"MYID"), 0):
            session.do("cluster", [verb])
        case b"KEYSLOT", 1:
            session.do("cluster", [verb, rest[0]])
        case _:
            other_subcommand(session, command)


def scan(session: Session, command: Command) -> None:
    """SCAN cursor [MATCH pattern] [COUNT number] [TYPE type]."""
    if not command[1].isdigit() or len(command[1]) > 20 or int(command[1]) > CURSOR_MAX:
        raise CommandError("ERR invalid cursor")
    pattern, count, kind = b"", b"10", b""
    words = iter(command[2:])
    for word in words:
        value = next(words, None)
        if value is None:
            raise CommandError(encode.SYNTAX)
        match word.upper():
            case b"MATCH":
                pattern = b"" if value == b"*" else value
            case b"COUNT":
                number = parse_integer(value)
                if number is None:
                    raise CommandError(encode.NOT_INTEGER)
                if number < 1:
                    raise CommandError(encode.SYNTAX)
                count = value
            case b"TYPE":
                kind = value.lower()
            case _:
                raise CommandError(encode.SYNTAX)
    session.do("scan", [command[1], pattern, count, kind])


def dbsize(session: Session, command: Command) -> None:
    """DBSIZE."""
    del command
    session.do("dbsize")


def flushdb(session: Session, command: Command) -> None:
    """FLUSHDB [ASYNC | SYNC]: either way it is answered when it is done."""
    if len(command) == 2 and command[1].upper() not in (b"ASYNC", b"SYNC"):
        raise CommandError(encode.SYNTAX)
    session.do("flushdb")
