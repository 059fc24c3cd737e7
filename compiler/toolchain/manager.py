"""The door to vendor toolchains: list, install, remove, check, use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity, did_you_mean, error
from edgec.toolchain import probe
from edgec.toolchain.description import ToolchainDescription, builtin_descriptions, load_description
from edgec.toolchain.environment import Environment, cache_root, folder_size, installed_paths, remove
from edgec.toolchain.processes import physical_memory
from edgec.toolchain.worker import PROTOCOL, Answer, Worker, run_worker

_PROBE_SECONDS = 300.0  # a first import from a cold network disk compiles bytecode


@dataclass(frozen=True)
class ToolchainStatus:
    """One line of `edgec toolchain list`. `size_bytes` counts outdated environments too; `problem` says why not."""

    name: str
    sdk: str
    version: str
    installed: bool
    path: Path | None
    size_bytes: int
    python: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Check:
    """One line of `edgec toolchain doctor`."""

    ok: bool
    what: str
    hint: str | None = None


@dataclass(frozen=True)
class Toolchain:
    """An SDK ready to be used. `diagnostics` holds warnings, such as a version other than the tested one."""

    name: str
    sdk: str
    python: Path
    versions: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()
    keep_env: tuple[str, ...] = ()
    progress: Callable[[str], None] | None = field(default=None, compare=False)

    def run(
        self,
        worker: Path,
        request: Mapping[str, Any],
        *,
        workdir: Path,
        files: Mapping[str, Path | bytes] | None = None,
        timeout: float = 1800.0,
        memory: int | None = None,
        log: Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Answer:
        """Run a worker script: see `run_worker`. `memory` in bytes; by default three quarters of this machine's."""
        with self.start(worker, workdir=workdir, memory=memory, log=log) as started:
            return started.run(request, files=files, timeout=timeout, progress=progress or self.progress)

    def start(self, worker: Path, *, workdir: Path, memory: int | None = None, log: Path | None = None) -> Worker:
        """Start a worker script before its request is known: the SDK loads while edgec does something else."""
        if memory is None and (physical := physical_memory()) is not None:
            memory = physical * 3 // 4
        env = {k: os.environ[k] for k in self.keep_env if k in os.environ}
        return Worker(self.python, worker, workdir=workdir, sdk=self.name, log=log, memory=memory, env=env)


class ToolchainManager:
    """All toolchains of this machine.

    `offline`: never install, EC0603 instead. `overrides`: toolchain name -> a Python that has the SDK already; it is
    used as it is. `descriptions`: those of plugins, name -> YAML file, beside edgec's own. `progress` is told what
    is being done in one short line each time.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        offline: bool = False,
        overrides: Mapping[str, Path] | None = None,
        descriptions: Mapping[str, Path] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.cache_dir = cache_root(cache_dir)
        self.offline = offline
        # absolute, but not resolved: the link in a virtual environment is what makes it one
        self.overrides = {name: Path(os.path.abspath(python)) for name, python in (overrides or {}).items()}
        self.progress = progress
        self._paths = {**builtin_descriptions(), **(descriptions or {})}
        for name in self.overrides:
            self.description(name)

    @property
    def names(self) -> list[str]:
        return sorted(self._paths)

    def description(self, name: str) -> ToolchainDescription:
        """EC0601 for an unknown name, EC0602 for a bad file, EC0625 for one made for another worker protocol."""
        if name not in self._paths:
            hint = did_you_mean(name, self.names, f"known: {', '.join(self.names)}")
            raise error("EC0601", f"there is no toolchain {name!r}", hint=hint)
        description = load_description(self._paths[name])
        if description.protocol != PROTOCOL:
            what = f"toolchain {name} is made for worker protocol {description.protocol}, edgec speaks {PROTOCOL}"
            raise error("EC0625", what, Location(description.source), "update edgec or the plugin")
        return description

    def list(self) -> list[ToolchainStatus]:
        """Never raises for one bad toolchain: its `problem` says what is wrong."""
        return [self._status(name) for name in self.names]

    def install(self, name: str) -> Toolchain:
        """Make the environment if it is not there, also when an override exists. Needs the network, not `offline`."""
        description = self.description(name)
        if not description.installable:
            what = f"edgec cannot install {description.title or description.sdk}: it comes with the device"
            raise error("EC0680", what, hint=f"--toolchain {name}=/path/to/python names a Python that has it")
        environment = Environment.of(description, self.cache_dir)
        if environment.stamp() is None:
            if self.offline:
                hint = f"run `edgec toolchain install {name}` while online, or use --toolchain {name}=/path/to/python"
                raise error("EC0603", f"{description.sdk} is not installed and --offline forbids it", hint=hint)
            environment.install(lambda python: self._probe(description, python), self.progress)
        stamp = environment.stamp()
        if stamp is None:
            raise error("EC0611", f"{description.sdk} was installed and is gone", Location(str(environment.path)))
        return Toolchain(
            name, description.sdk, environment.python, stamp["versions"], (), description.keep_env, self.progress
        )

    def installed(self, name: str) -> Toolchain | None:
        """The SDK where `ensure` has nothing to install or to try out, else None."""
        if name in self.overrides:
            return None
        description = self.description(name)
        if not description.installable or Environment.of(description, self.cache_dir).stamp() is None:
            return None
        return self.ensure(name)

    def ensure(self, name: str) -> Toolchain:
        """The SDK, ready: the override's, the installed one, or installed now. EC0603 to EC0613 where impossible."""
        if name not in self.overrides:
            return self.install(name)
        description, python = self.description(name), self.overrides[name]
        try:
            versions = self._probe(description, python)
        except EdgecError as e:
            (first, *_) = e.diagnostics
            what = f"{python} cannot be used for {name}: {first.message}"
            hint = f"it must have {description.sdk}" + (f"\n  {first.hint}" if first.hint else "")
            raise error("EC0613", what, first.location, hint) from e
        found = versions.get(description.sdk)
        notes = []
        if description.version and found != description.version:
            what = f"{python} has {description.sdk} {found or 'of unknown version'}, tested is {description.version}"
            hint = "numbers, placement and supported operators may differ"
            notes.append(Diagnostic("EC0614", Severity.WARNING, what, Location(), hint))
        return Toolchain(name, description.sdk, python, versions, tuple(notes), description.keep_env, self.progress)

    def remove(self, name: str) -> Sequence[Path]:
        """Delete its environments, also those of older locks; returns their paths. EC0610 if that fails."""
        self.description(name)
        return remove(self.cache_dir / "toolchains", name, self.progress)

    def doctor(self, name: str | None = None) -> Sequence[Check]:
        """Really import the SDKs. Installs nothing; what is not installed is said so, and is no failure."""
        return [check for n in ([name] if name else self.names) for check in self._examine(n)]

    def _examine(self, name: str) -> Sequence[Check]:
        try:
            description = self.description(name)
            if name in self.overrides:
                toolchain = self.ensure(name)
                checks = [Check(False, d.message, d.hint) for d in toolchain.diagnostics]
                return [*checks, Check(True, f"{name}: {toolchain.python} imports {description.sdk}")]
            if not description.installable:
                hint = f"--toolchain {name}=/path/to/python names a Python that has it"
                return [Check(True, f"{name}: comes with the device, edgec does not install it", hint)]
            environment = Environment.of(description, self.cache_dir)
            checks = [Check(True, f"{name}: this machine and Python {environment.python_version} are supported")]
            stamp = environment.stamp()
            if stamp is None:
                hint = f"`edgec toolchain install {name}`; compile does it when needed"
                return [*checks, Check(True, f"{name}: not installed", hint)]
            versions = self._probe(description, environment.python)
            changed = sorted(p for p, v in stamp["versions"].items() if versions.get(p) != v)
            if changed:
                hint = f"`edgec toolchain remove {name}`, then install it again"
                return [*checks, Check(False, f"{name}: {', '.join(changed)} changed since it was installed", hint)]
            what = f"{name}: {description.sdk} {versions.get(description.sdk)} imports in {environment.path}"
            return [*checks, Check(True, what)]
        except EdgecError as e:
            return [Check(False, f"{name}: {d.message}", d.hint) for d in e.diagnostics]

    def _status(self, name: str) -> ToolchainStatus:
        root = self.cache_dir / "toolchains"
        try:
            description = self.description(name)
        except EdgecError as e:
            return ToolchainStatus(name, "?", "?", False, None, 0, None, e.diagnostics[0].message)
        if name in self.overrides:
            python = self.overrides[name]
            problem = None if python.exists() else f"{python} does not exist"
            return ToolchainStatus(name, description.sdk, "?", problem is None, python, 0, None, problem)
        if not description.installable:
            what = "comes with the device; --toolchain names a Python that has it"
            return ToolchainStatus(name, description.sdk, description.version, False, None, 0, None, what)
        try:
            environment = Environment.of(description, self.cache_dir)
        except EdgecError as e:
            what = e.diagnostics[0].message
            return ToolchainStatus(name, description.sdk, description.version, False, None, 0, None, what)
        stamp = environment.stamp()
        outdated = [p for p in installed_paths(root, name) if p != environment.path or stamp is None]
        problem = f"{len(outdated)} outdated or broken: `edgec toolchain remove {name}`" if outdated else None
        size = (stamp["size_bytes"] if stamp else 0) + sum(folder_size(p) for p in outdated)
        return ToolchainStatus(
            name, description.sdk, description.version, stamp is not None, environment.path if stamp else None,
            size, environment.python_version, problem,
        )  # fmt: skip

    def _probe(self, description: ToolchainDescription, python: Path) -> dict[str, str]:
        """Versions in an environment whose SDK imports; EC0612 otherwise."""
        request = {"imports": list(description.imports), "packages": list(description.packages())}
        env = {k: os.environ[k] for k in description.keep_env if k in os.environ}
        with tempfile.TemporaryDirectory(prefix="edgec-probe-") as folder:
            try:
                answer = run_worker(
                    python, Path(probe.__file__), request, workdir=Path(folder), sdk=description.sdk,
                    timeout=_PROBE_SECONDS, env=env,
                )  # fmt: skip
            except EdgecError as e:
                d = e.diagnostics[0]  # its log goes with the folder; the hint has the lines that matter
                raise error("EC0612", f"{description.sdk} does not import: {d.message}", hint=d.hint) from e
        return dict(answer.values["versions"])
