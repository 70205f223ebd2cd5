"""How deep a JSON body nests, measured before anybody decodes it.

Sans-I/O.
"""

from __future__ import annotations

import re
from itertools import accumulate

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def is_too_deep(body: bytes, depth_max: int) -> bool:
    """True if the JSON text nests deeper than `depth_max`.

    Brackets are counted first, at C speed; only a body that looks too deep is looked at without its strings. Brackets
    in strings can hide depth from the first look: the decoder's own recursion limit stands behind it.
    """
    if body.count(b"[") + body.count(b"{") <= depth_max:
        return False
    return _depth(body) > depth_max and _depth(_STRINGS.sub(b"", body)) > depth_max


def _depth(body: bytes) -> int:
    return max(accumulate(map(_STEP.__getitem__, body.translate(None, _NOT_BRACKETS))), default=0)
