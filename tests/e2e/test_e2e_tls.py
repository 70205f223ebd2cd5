"""Real processes whose HTTP speaks TLS with the cluster's certificate."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from frys_node.client import SyncClient
from tests.e2e.test_e2e_cluster import frys, wait
from tests.e2e.test_e2e_start_stop import detached, ports

pytestmark = pytest.mark.slow


def served(http: str, ca: Path) -> str:
    """Return the certificate that a node shows, checked against its authority."""
    host, _, port = http.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(ca), timeout=20)


def is_served(http: str, ca: Path) -> bool:
    """True if a node shows a certificate of that authority."""
    try:
        return bool(served(http, ca))
    except ssl.SSLCertVerificationError:
        return False


def test_a_cluster_that_speaks_tls_is_reached_by_curl_and_by_the_client_through_every_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file is all that is trusted; the client finds owners over TLS; a restart shows the same certificate.

    Another authority's is shown as soon as it issues.
    """
    monkeypatch.setenv("FRYS_PLUGINS_NETWORK_TLS", "cluster")
    monkeypatch.setenv("FRYS_PLUGINS_NETWORK_TLS_CLASSICAL", "true")
    monkeypatch.setenv("FRYS_CLUSTER_PARTITIONS", "8")
    for name in "ab":
        (tmp_path / name).mkdir()
    at_b = ports()
    with detached("start", "--name", "a", *ports(), cwd=tmp_path / "a") as a:
        token = (tmp_path / "a" / a["join_token_file"]).read_text()
        join = ("join", "--seed", a["address"], "--token-file", "-", "--name", "b", *at_b)
        ca = tmp_path / "a" / a["data_dir"] / "ca.pem"
        with detached(*join, cwd=tmp_path / "b", given=token) as b:
            assert (a["scheme"], b["scheme"]) == ("https", "https")
            shown = served(b["http"], ca)
            assert shown != served(a["http"], ca)
            for node in (a, b):
                line = ["curl", "-s", "--max-time", "20", "--cacert", str(ca), f"https://{node['http']}/v1/members"]
                done = subprocess.run(line, capture_output=True, text=True, check=True)
                assert '"name":"b"' in done.stdout
            with SyncClient(f"https://{a['http']}", ca=ca) as client:
                cache = client.cache("default")
                for number in range(50):
                    cache.put(f"k{number}", b"x" * 1_000)
                assert all(cache.get(f"k{number}") for number in range(50))
            with SyncClient(f"https://{b['http']}", data_dir=tmp_path / "a" / a["data_dir"]) as client:
                assert {member["name"] for member in client.members()} == {"a", "b"}
        with detached(*join, cwd=tmp_path / "b", given=token) as b:
            assert served(b["http"], ca) == shown
            old = ca.read_bytes()
            done = frys("ca", "rotate", "--data-dir", str(tmp_path / "a" / a["data_dir"]), cwd=tmp_path / "a")
            assert done.returncode == 0, done.stderr
            # The listeners follow at once: what the new authority alone vouches for is shown by both.
            wait("a's new file", lambda: ca.read_bytes() != old)
            wait("both show it", lambda: all(is_served(node["http"], ca) for node in (a, b)))
            assert served(b["http"], ca) != shown
