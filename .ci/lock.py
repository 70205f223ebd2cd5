"""Writes the lock files from what is installed: ``.venv/bin/python .ci/lock.py``.

`requirements.lock` pins everything that the gate needs, `requirements-runtime.lock` what a plain node needs, and
`requirements-fuzz.lock` what `make fuzz` needs, if that has been installed. All are found by walking the requirements
of this project through the metadata of the installed packages, so a package that somebody installed by hand does not
slip in.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
BUILD = {"setuptools": "80.9.0"}
"""Builds the editable install without fetching anything further; chosen here because nothing requires it."""


def closure(requirements: list[str]) -> dict[str, str]:
    """Return name and version of everything that the requirements pull in on this machine."""
    found: dict[str, str] = {}
    open_: list[Requirement] = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while open_:
        wanted = open_.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        package = metadata.distribution(wanted.name)
        found[key[0]] = package.version
        for text in package.requires or []:
            needed = Requirement(text)
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                open_.append(needed)
    return found


def write(name: str, purpose: str, pins: dict[str, str]) -> None:
    """Write one lock file, sorted."""
    lines = [f"# {purpose} Written by .ci/lock.py from pyproject.toml; do not edit."]
    lines += [f"{package}=={version}" for package, version in sorted(pins.items())]
    (ROOT / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{name}: {len(pins)} packages")


def main() -> None:
    """Write the lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = closure(project["dependencies"]) | BUILD
    everything = closure([*project["dependencies"], *project["optional-dependencies"]["dev"]]) | BUILD
    write("requirements-runtime.lock", "What a plain node needs.", runtime)
    write("requirements.lock", "What the gate needs: the node, and the tools that judge it.", everything)
    try:
        fuzzing = closure([*project["dependencies"], *project["optional-dependencies"]["fuzz"]]) | BUILD
    except metadata.PackageNotFoundError as error:
        print(f"requirements-fuzz.lock: unchanged, because {error.name} is not installed")
    else:
        write("requirements-fuzz.lock", "What fuzzing needs: the node, and atheris.", fuzzing)


if __name__ == "__main__":
    main()
