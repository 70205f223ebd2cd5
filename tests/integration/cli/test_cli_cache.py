"""`frys-node cache` against the cache's routes: what is printed, and that --json loses nothing."""

from __future__ import annotations

from pathlib import Path

from frys_node.testing.rpc import open_rpc_network
from tests.integration.cache.test_cache_http import CacheCluster
from tests.integration.cli.cli_rig import command_line


async def test_values_go_in_and_out_and_a_miss_exits_1(tmp_path: Path) -> None:
    """Any key, spaces and slashes included; a delete makes it a miss."""
    async with (
        open_rpc_network() as network,
        command_line(tmp_path, CacheCluster(network).http["a"], "/v1/cache") as cli,
    ):
        assert await cli.run("cache", "put", "a b/ü", "value") == (0, "", "")
        assert await cli.run("cache", "get", "a b/ü") == (0, "value", "")
        assert (await cli.run("cache", "put", "k", "v", "--ttl", "soon")).code == 2
        assert (await cli.run("cache", "delete", "a b/ü")).code == 0
        for more in ([], ["--json"]):
            missed = await cli.run("cache", "get", "a b/ü", *more)
            assert (missed.code, missed.out, "cache.miss" in missed.err) == (1, "", True)


async def test_json_is_the_http_body_and_holds_any_bytes(tmp_path: Path) -> None:
    """Put and delete print key and version; get prints the entry with its life, in base64 what is no text."""
    async with open_rpc_network() as network:
        await _json_of_everything(tmp_path, CacheCluster(network))


async def _json_of_everything(tmp_path: Path, caches: CacheCluster) -> None:
    async with command_line(tmp_path, caches.http["a"], "/v1/cache") as cli:
        put = (await cli.run("cache", "put", "k", "v", "--ttl", "10m", "--json")).json()
        assert put.keys() == {"key", "version"}
        entry = (await cli.run("cache", "get", "k", "--json", "--consistency", "quorum")).json()
        assert (entry["value"], entry["version"], entry["ttl_s"]) == ("v", put["version"], 600)
        await caches.http["b"].request("PUT", "/v1/cache/default/raw", b"\xff\x00")
        assert (await cli.run("cache", "get", "raw", "--json")).json()["base64"] == "/wA="
        assert (await cli.run("cache", "delete", "k", "--json")).json()["key"] == "k"
