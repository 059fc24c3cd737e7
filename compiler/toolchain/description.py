"""What a toolchain is: one YAML file and one lock file beside it."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgec.diagnostics import EdgecError, Location, error

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class ToolchainDescription:
    """A vendor SDK edgec can install.

    `python` lists the CPython versions it runs on ("3.11"), best first; `platforms` "linux-x86_64" and the like;
    `imports` the modules whose import proves that it works; `report` the packages whose versions go into manifests;
    `stubs` files to put into site-packages (relative path -> text); `keep_env` variables of the caller that the SDK
    may see. `lock` is a requirements file with hashes, named relative to the YAML; "" for an SDK edgec cannot install (it
    comes with its device), which a user names with --toolchain. `version` is the tested one, "" where many are.
    """

    name: str
    sdk: str
    version: str
    python: tuple[str, ...]
    platforms: tuple[str, ...]
    lock: str
    imports: tuple[str, ...]
    protocol: int
    title: str = ""
    report: tuple[str, ...] = ()
    stubs: Mapping[str, str] = field(default_factory=dict)
    keep_env: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: str = ""
    source: str = ""  # the YAML file; filled in on loading

    @property
    def installable(self) -> bool:
        return bool(self.lock)

    @property
    def lock_path(self) -> Path:
        return Path(self.source).parent / self.lock

    def packages(self) -> tuple[str, ...]:
        """Packages whose versions are reported; the SDK itself comes first."""
        return tuple(dict.fromkeys((self.sdk, *self.report)))

    def fingerprint(self, python_version: str) -> str:
        """16 hex digits that change with anything the environment depends on."""
        h = hashlib.sha256()
        for part in (
            Path(self.source).read_bytes(),
            self.lock_path.read_bytes() if self.installable else b"",
            f"python {python_version} on {this_platform()}".encode(),
        ):
            h.update(len(part).to_bytes(8, "little") + part)
        return h.hexdigest()[:16]


def this_platform() -> str:
    """ "linux-x86_64", "linux-aarch64", "darwin-arm64" ..."""
    return f"{sys.platform}-{platform.machine()}"


def load_description(path: Path) -> ToolchainDescription:
    """Read one toolchain description; EC0602 names every mistake in it."""
    import yaml
    from pydantic import TypeAdapter, ValidationError, with_config

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise _bad(path, f"cannot read it: {e}") from e
    if not isinstance(data, dict):
        raise _bad(path, "it is not a mapping")
    try:
        adapter = TypeAdapter(with_config({"extra": "forbid"})(ToolchainDescription))
        description = adapter.validate_python({**data, "source": str(path.resolve())})
    except ValidationError as e:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in e.errors()]
        raise _bad(path, "; ".join(faults)) from e
    if not _NAME.fullmatch(description.name):
        raise _bad(path, f"name: {description.name!r} must be lower-case letters, digits, - and _")
    for stub in description.stubs:
        if PurePosixPath(stub).is_absolute() or ".." in PurePosixPath(stub).parts:
            raise _bad(path, f"stubs: {stub!r} leaves the environment")
    if description.installable and not description.lock_path.is_file():
        raise _bad(path, f"lock: {description.lock} is not beside it")
    return description


def builtin_descriptions() -> dict[str, Path]:
    """The descriptions that come with edgec: name -> YAML file."""
    import edgec.specs

    folders = [Path(p) / "toolchains" for p in edgec.specs.__path__]
    return {p.stem: p for folder in folders for p in sorted(folder.glob("*.yaml"))}


def _bad(path: Path, what: str) -> EdgecError:
    return error("EC0602", f"toolchain description: {what}", Location(str(path)), "`edgec explain EC0602`")
