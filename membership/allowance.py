"""How much a node may say: a token bucket.

Sans-I/O.
"""

from __future__ import annotations

from membership.errors import GossipTooFast

ROUNDING = 1e-9


class Allowance:
    """Lets `burst` through at once and `per_s` in the long run."""

    __slots__ = ("_at_s", "_burst", "_left", "_per_s", "_what")

    def __init__(self, what: str, *, per_s: float, burst: int, now_s: float) -> None:
        """Start full. `what` is for the message."""
        self._what = what
        self._per_s = per_s
        self._burst = burst
        self._left = float(burst)
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds there is one to take; 0 if there is one now."""
        self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = max(self._at_s, now_s)
        # Whoever has waited for as long as it was told must not find a billionth of one missing.
        return 0.0 if self._left >= 1.0 - ROUNDING else (1.0 - self._left) / self._per_s

    def spend(self, now_s: float) -> None:
        """Take one.

        Raises:
            GossipTooFast: None is left. Nothing was taken.
        """
        wait_s = self.wait_s(now_s)
        if wait_s:
            raise GossipTooFast(
                f"more than {self._per_s:g} {self._what} per second at this node, and the {self._burst} in reserve"
                " are used up",
                hint=f"retry in {wait_s:.2f} s, or say more with each",
            )
        self._left -= 1.0
