"""The bounded models of the protocol in Maude: every reachable state of the protocol as it is, and of broken ones.

A model without its attacks proves nothing: each check, left out alone in a variant of its own, has to yield a state
that must never be, and the way there is printed. Two variants more leave out two: each alone stops some attack.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from verify_tally import Tally

FOLDER = Path(__file__).resolve().parent / "model"
STATES_MAX = 500_000
"""More of them mean that a bound of the model was lost."""


class Model(NamedTuple):
    """One module, the checks that its protocol makes, and what must never be."""

    module: str
    checks: tuple[str, ...]
    properties: tuple[str, ...]


class Case(NamedTuple):
    """One beginning of a model, which checks are left out, and the properties that are looked at."""

    model: Model
    about: str
    start: str
    """With ``{}`` where the checks go."""
    without: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    """Properties of which one has to be broken; none must be if it is empty."""
    apart: tuple[str, ...] = ()
    """Properties that this beginning breaks by itself."""


JOIN = Model(
    "JOIN",
    ("pin", "bound", "issuer-proof", "once", "member-certificate"),
    ("no-key-to-a-stranger", "agreement", "only-the-holder", "once", "no-proof-to-a-stranger"),
)
KEYS = Model(
    "KEYS",
    ("gate", "rotate-on-expulsion", "keys-over-tls", "keys-signed", "expulsions-signed", "held-back", "ranked"),
    ("no-later-key", "sealed-for-members", "nobody-else-expelled"),
)
TERMS = Model("TERMS", ("survey", "majority", "higher", "term", "durable"), ("one-chain",))

MEMBER_GIVEN = ("no-key-to-a-stranger",)
"""A member has the gossip key anyway."""
TOKEN_GIVEN = (*MEMBER_GIVEN, "only-the-holder")
"""A thief holds the token."""

CASES = (
    # The protocol as it is.
    Case(JOIN, "an outsider with an authority of its own", "start(outsider, {}, 2)"),
    Case(JOIN, "a malicious member without a token", "start(member, {}, 2)", apart=MEMBER_GIVEN),
    Case(JOIN, "a malicious member with a token of its own", "start(insider, {}, 1)", apart=MEMBER_GIVEN),
    Case(JOIN, "a thief of the joiner's token", "start(thief, {}, 1)", apart=TOKEN_GIVEN),
    Case(JOIN, "a pre-made token, which pins nothing", "start(outsider, {}, 2)", ("pin",), (), JOIN.properties[-1:]),
    Case(KEYS, "two rotations, one expulsion, an issuer followed by another", "start({}, 2, 1, promotion)"),
    Case(KEYS, "the same with one rotation, expulsions lost on their way", "start({}, 1, 1, promotion losses(2))"),
    Case(TERMS, "three members, two candidates, one restart", "start({})"),
    # Broken variants.
    Case(
        JOIN,
        "proof not bound to its channel, before a member",
        "start(member, {}, 2)",
        ("bound",),
        ("only-the-holder",),
    ),
    Case(
        JOIN,
        "neither bound nor pinned, before an outsider",
        "start(outsider, {}, 2)",
        ("bound", "pin"),
        ("no-key-to-a-stranger",),
    ),
    Case(JOIN, "the issuer's proof not checked", "start(insider, {}, 1)", ("issuer-proof",), ("agreement",)),
    Case(JOIN, "the authority's hash not checked", "start(outsider, {}, 2)", ("pin",), ("no-proof-to-a-stranger",)),
    Case(
        JOIN,
        "neither hash nor issuer's proof checked",
        "start(outsider, {}, 2)",
        ("pin", "issuer-proof"),
        ("agreement",),
    ),
    Case(JOIN, "a token that is not used up", "start(thief, {}, 2)", ("once",), ("once",)),
    Case(
        JOIN,
        "no certificate asked for in frys/1",
        "start(outsider, {}, 2)",
        ("member-certificate",),
        ("no-key-to-a-stranger",),
    ),
    Case(KEYS, "the expelled not refused at the gate", "start({}, 0, 1, empty)", ("gate",), ("no-later-key",)),
    Case(
        KEYS,
        "no rotation when a node is expelled",
        "start({}, 0, 1, empty)",
        ("rotate-on-expulsion",),
        ("sealed-for-members",),
    ),
    Case(KEYS, "new keys sent under the old one", "start({}, 0, 1, empty)", ("keys-over-tls",), ("no-later-key",)),
    Case(
        KEYS,
        "keys of members believed as they come",
        "start({}, 0, 1, empty)",
        ("keys-signed",),
        ("sealed-for-members",),
    ),
    Case(
        KEYS,
        "expulsions believed from whoever brings them",
        "start({}, 0, 0, empty)",
        ("expulsions-signed",),
        ("nobody-else-expelled",),
    ),
    Case(
        KEYS,
        "keys told on by who does not know of their expulsion",
        "start({}, 0, 0, losses(1))",
        ("held-back",),
        ("no-later-key",),
    ),
    Case(
        KEYS,
        "a higher epoch before a higher number of expelled",
        "start({}, 1, 0, promotion)",
        ("ranked",),
        ("sealed-for-members",),
    ),
    Case(TERMS, "the role taken without a survey", "start({})", ("survey",), ("one-chain",)),
    Case(TERMS, "a survey without a majority", "start({})", ("majority",), ("one-chain",)),
    Case(TERMS, "a lower record adopted again", "start({})", ("higher",), ("one-chain",)),
    Case(TERMS, "no check of terms", "start({})", ("term",), ("one-chain",)),
    Case(TERMS, "promises that a restart forgets", "start({})", ("durable",), ("one-chain",)),
)


class Found(NamedTuple):
    """What the search of one case came to."""

    states: int
    attack: tuple[str, ...]
    """Labels of the rules from the beginning to the broken state; empty if there is none."""
    end: str


def explore(case: Case) -> Found:
    """Visit every state that can be reached, breadth first, up to the first one that must never be."""
    import maude

    module = _module(maude, case.model.module)
    checks = [name for name in case.model.checks if name not in case.without]
    properties = case.broken or tuple(name for name in case.model.properties if name not in case.apart)
    begin = module.parseTerm(case.start.format(_checks(checks)))
    kinds = [module.findSort(name).kind() for name in ("State", "Checks", "Bool")]
    any_of = module.findSymbol("anyOf", kinds[:2], kinds[2])
    asked, true = module.parseTerm(_checks(properties)), module.parseTerm("true")
    asked.reduce()
    states = 0
    for state, _, path, _ in begin.search(maude.ANY_STEPS, module.parseTerm("S:State")):
        states += 1
        verdict = any_of.makeTerm([state, asked])
        verdict.reduce()
        if verdict == true:
            return Found(states, tuple(str(rule.getLabel()) for rule in path()[1::2]), str(state))
        if states > STATES_MAX:
            raise RecursionError(f"{case.about}: more than {STATES_MAX} states")
    return Found(states, (), "")


def _checks(names: list[str] | tuple[str, ...]) -> str:
    return "(" + (" ; ".join(f"'{name}" for name in names) or "none") + ")"


def _module(maude: Any, name: str) -> Any:
    """Return a module, loading the models the first time."""
    if maude.getModule("TERMS") is None:
        maude.init()
        for model in ("join", "keys", "terms"):
            if not maude.load(str(FOLDER / f"{model}.maude")):
                raise FileNotFoundError(f"the model '{model}' does not load")
    return maude.getModule(name)


def trace(found: Found) -> Iterator[str]:
    """Tell an attack step by step."""
    for number, label in enumerate(found.attack, 1):
        yield f"  {number}. {label.replace('-', ' ')}"


def models() -> list[Tally]:
    """Explore every case.

    Raises:
        ModuleNotFoundError: Maude is not installed.
    """
    sound, attacked = Tally("model, the protocol", "states"), Tally("model, broken variants", "variants")
    for case in CASES:
        found = explore(case)
        if not case.broken:
            sound.tried += found.states - 1
            sound.check(not found.attack, f"{case.about}: {' / '.join(found.attack)}")
            sound.notes.append(f"{case.model.module}: {case.about}: {found.states:,} states")
            continue
        attacked.check(bool(found.attack), f"{case.about}: no attack in {found.states} states")
        attacked.notes.append(f"{case.model.module}: {case.about}: {', '.join(case.broken)} is broken")
        attacked.notes += trace(found)
    return [sound, attacked]
