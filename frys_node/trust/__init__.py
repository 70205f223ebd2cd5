"""Whom the cluster trusts: its authority, what that admits, renews and expels, and the keys and tokens of the members.

What these machines and drivers say to other nodes goes through `Rpc`; they know no connection. The channel, which
stands above, asks them whom to greet and admits by their word.
"""

from __future__ import annotations
