"""Bearer tokens of a test: a real `Access` in all but the hashing."""

from __future__ import annotations

import hmac

from frys_node.base.access import ADMIN, Principal


class FakeAccess:
    """Knows tokens by their text. Take one out of `tokens`, and it is revoked."""

    def __init__(self, admin: str = "", **tokens: Principal) -> None:
        self.tokens = ({admin: ADMIN} if admin else {}) | tokens
        self.is_told = True

    def authenticate(self, bearer: str) -> Principal | None:
        """See `Access`."""
        return next((p for text, p in self.tokens.items() if hmac.compare_digest(bearer.encode(), text.encode())), None)

    def is_valid(self, principal: Principal) -> bool:
        """See `Access`."""
        return not principal.token_id or principal in self.tokens.values()
