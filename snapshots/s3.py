"""`Objects` in an S3-compatible object store, through obstore (the Rust crate `object_store`), ADR 0019.

obstore is imported when the first such place is used, and lives in the extra ``s3``. Its calls block, so they run in
worker threads of their own: an endpoint that hangs must not take the threads that sync the node's journals. Requests
that may help to repeat (5xx, 429, broken connections) are tried again by obstore, within `RETRY_S`.
"""

from __future__ import annotations

import builtins
import datetime as dt
import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, TypeVar

import msgspec

from frys_node.base.errors import FrysError, UsageError
from frys_node.base.ports import Executor
from snapshots.errors import NoBucket, NoStoreLibrary, StoreRefused, StoreUnreachable
from snapshots.objects import OBJECT_BYTES_MAX, check_size

REQUEST_S: Final = 30.0
"""Longest single request; an object of 1 MiB needs 300 kbit/s."""

CONNECT_S: Final = 5.0
RETRIES_MAX: Final = 6
RETRY_S: Final = 60.0
"""How long a request is tried again altogether."""

REMOVE_BATCH: Final = 1_000
"""Keys of one request to delete; the protocol's limit."""

T = TypeVar("T")

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"non-2xx status code: (\d+)")
_FIX = {
    "SignatureDoesNotMatch": "the secret key is not the one of that access key, or a proxy changes requests",
    "InvalidAccessKeyId": "the access key is unknown there: check AWS_ACCESS_KEY_ID and the endpoint",
    "AccessDenied": "these credentials may not do that: they need GetObject, PutObject, DeleteObject and ListBucket",
    "RequestTimeTooSkewed": "this machine's clock is off by more than 15 minutes: set it",
    "ExpiredToken": "the session token is over: set fresh credentials; the node reads its environment when it starts",
}


class S3Location(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bucket is and who asks. Never logged: it holds the secret key."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    """``http(s)://host:port``; empty: Amazon's, by region."""
    region: str = "us-east-1"
    is_path_style: bool = True
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""

    @property
    def place(self) -> str:
        """The place as it is written on the command line."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def parse_place(text: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix`` (`UsageError`)."""
    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    parts = prefix.split("/") if prefix else []
    if not _BUCKET.fullmatch(bucket) or any(part in ("", ".", "..") for part in parts):
        raise UsageError(
            f"'{text}' is not a place in an object store",
            hint="write s3://bucket/prefix; a bucket has 3 to 63 lower-case letters, digits, '.' and '-'",
        )
    return bucket, prefix


class S3Objects:
    """`Objects` under a prefix of a bucket."""

    def __init__(self, location: S3Location, executor: Executor, *, retries_max: int = RETRIES_MAX) -> None:
        self._location = location
        self._executor = executor
        self._retries_max = retries_max
        self._api, self._store = self._open()

    def _open(self) -> tuple[ModuleType, Any]:
        where = self._location
        try:
            api = importlib.import_module("obstore")
            stores = importlib.import_module("obstore.store")
        except ImportError as error:
            raise NoStoreLibrary(
                "object stores need the library obstore on the node",
                hint="install it beside the node: pip install 'frys-node[s3]'",
            ) from error
        settings: dict[str, Any] = {
            "region": where.region,
            "access_key_id": where.access_key,
            "secret_access_key": where.secret_key,
            "virtual_hosted_style_request": not where.is_path_style,
        }
        if where.endpoint:
            settings["endpoint"] = where.endpoint
        if where.session_token:
            settings["session_token"] = where.session_token
        store = stores.S3Store(
            where.bucket,
            prefix=where.prefix or None,
            **settings,
            client_options={
                "allow_http": where.endpoint.startswith("http://"),
                "timeout": f"{REQUEST_S:.0f}s",
                "connect_timeout": f"{CONNECT_S:.0f}s",
            },
            retry_config={
                "max_retries": self._retries_max,
                "retry_timeout": dt.timedelta(seconds=RETRY_S),
                "backoff": {
                    "init_backoff": dt.timedelta(milliseconds=100),
                    "max_backoff": dt.timedelta(seconds=10),
                    "base": 2,
                },
            },
        )
        return api, store

    @property
    def place(self) -> str:
        """``s3://bucket/prefix``."""
        return self._location.place

    async def get(self, key: str) -> bytes | None:
        """Return an object, None if there is none."""

        def work() -> bytes | None:
            try:
                found = self._api.get(self._store, key)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
            if found.meta["size"] > OBJECT_BYTES_MAX:
                raise StoreUnreachable(
                    f"'{key}' in {self.place} has {found.meta['size']} bytes: it is not of a snapshot",
                    hint="give snapshots a prefix of their own",
                )
            return bytes(found.bytes())

        return await self._run("read", key, work)

    async def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of that key."""
        check_size(key, data)

        def work() -> None:
            self._api.put(self._store, key, data, use_multipart=False)

        await self._run("write", key, work)

    async def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of that key (`If-None-Match: *`); False if there is."""
        check_size(key, data)
        exists: type[Exception] = importlib.import_module("obstore.exceptions").AlreadyExistsError

        def work() -> bool:
            try:
                self._api.put(self._store, key, data, mode="create", use_multipart=False)
            except exists:
                return False
            return True

        return await self._run("create", key, work)

    async def list(self, folder: str) -> Mapping[str, int]:
        """Names and sizes of a folder's objects, a thousand a request."""

        def work() -> dict[str, int]:
            found: dict[str, int] = {}
            for page in self._api.list(self._store, folder, chunk_size=1_000):
                for meta in page:
                    found[meta["path"].removeprefix(f"{folder}/")] = meta["size"]
            return dict(sorted(found.items()))

        return await self._run("list", folder, work)

    async def folders(self) -> Sequence[str]:
        """Nothing: format 1 was never written to object stores."""
        return ()

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, a thousand a request."""
        for start in range(0, len(keys), REMOVE_BATCH):
            batch = list(keys[start : start + REMOVE_BATCH])
            await self._run("delete", batch[0], functools.partial(self._delete, batch))

    def _delete(self, keys: builtins.list[str]) -> None:
        try:
            self._api.delete(self._store, keys)
        except FileNotFoundError as error:
            self._check_bucket(error)

    async def _run(self, action: str, key: str, work: Callable[[], T]) -> T:
        """Run a blocking call in a worker; whatever it raises leaves as an error that names the fix."""

        def guarded() -> T:
            try:
                return work()
            except FrysError:
                raise
            except Exception as error:
                raise self._translate(action, key, error) from error

        return await self._executor.run(guarded)

    def _check_bucket(self, error: Exception) -> None:
        if "<Code>NoSuchBucket</Code>" in str(error):
            raise NoBucket(
                f"there is no bucket '{self._location.bucket}' at {self._endpoint}",
                hint="make the bucket first, or check the name, the endpoint and the region",
            )

    @property
    def _endpoint(self) -> str:
        return self._location.endpoint or f"Amazon S3 in {self._location.region}"

    def _translate(self, action: str, key: str, error: Exception) -> FrysError:
        text = str(error)
        self._check_bucket(error)
        code = match[1] if (match := _CODE.search(text)) else ""
        status = int(match[1]) if (match := _STATUS.search(text)) else 0
        if status in (401, 403):
            fix = _FIX.get(code, "check the credentials: docs/snapshots.md says where they come from")
            return StoreRefused(f"{self._endpoint} refuses to {action} '{key}' ({code or status})", hint=fix)
        reason = f"{code or 'HTTP'} {status}" if status else text.partition("\n")[0][:200]
        return StoreUnreachable(
            f"cannot {action} '{key}' in {self.place}: {reason}",
            hint=f"check that {self._endpoint} is up and can be reached from this node",
        )
