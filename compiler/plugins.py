"""Finding plugins. A broken plugin becomes a diagnostic, never a crash of `edgec --help`."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pluggy

from edgec import hookspecs
from edgec.diagnostics import Diagnostics, did_you_mean, error

if TYPE_CHECKING:
    from edgec.artifact_format import ArtifactFormat
    from edgec.pipeline import Pass
    from edgec.target import Target

T = TypeVar("T")


class Catalog(Mapping[str, type[T]], Generic[T]):
    """name -> class. Listing names imports nothing; `catalog[name]` imports that one."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._refs: dict[str, list[tuple[str, str | type[T]]]] = {}

    def add(self, name: str, plugin: str, ref: str | type[T]) -> None:
        self._refs.setdefault(name, []).append((plugin, ref))

    def plugin(self, name: str) -> str:
        """The plugin that provides `name`."""
        return self._refs[name][0][0]

    def __getitem__(self, name: str) -> type[T]:
        owners = self._refs[name]
        if len(owners) > 1:
            plugins = ", ".join(repr(p) for p, _ in owners)
            raise error(
                "EC0112", f"{name!r} is provided by more than one plugin: {plugins}", hint="uninstall all but one"
            )
        ((plugin, ref),) = owners
        if isinstance(ref, str):
            try:
                ref = cast("type[T]", pkgutil.resolve_name(ref))
            except Exception as e:  # a plugin's module may fail in any way; the user needs its name
                what = f"{name!r} of plugin {plugin!r} cannot be loaded from {ref}: {type(e).__name__}: {e}"
                raise error("EC0113", what, hint="reinstall the plugin, or tell its authors") from e
        if not (isinstance(ref, type) and any(c.__name__ == self._base for c in ref.__mro__)):
            raise error("EC0114", f"{name!r} of plugin {plugin!r} is {ref!r}, not a subclass of edgec.{self._base}")
        return ref

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._refs))

    def __contains__(self, name: object) -> bool:
        return name in self._refs

    def __len__(self) -> int:
        return len(self._refs)


class Registry:
    """Holds the plugins. No module-level state, so an embedder can have several.

    `discover`: load the installed plugins (entry points of group "edgec"); else only what is registered by hand.
    """

    def __init__(self, *, discover: bool = True) -> None:
        self.diagnostics = Diagnostics()
        self._pm = pluggy.PluginManager("edgec")
        self._pm.add_hookspecs(hookspecs)
        for ep in sorted(entry_points(group="edgec"), key=lambda e: e.name) if discover else ():
            try:
                self.register(ep.load(), ep.name)
            except Exception as e:  # noqa: BLE001  any failure of one plugin must leave the others usable
                dist = ep.dist.name if ep.dist else "?"
                message = f"plugin {ep.name!r} of {dist} is not loaded: {type(e).__name__}: {e}"
                self.diagnostics.warn("EC0110", message, hint=f"uninstall {dist}, or tell its authors")

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add one plugin. A misspelt or unknown hook raises `pluggy.PluginValidationError`."""
        self._pm.register(plugin, name)
        try:
            self._pm.check_pending()
            self._unknown_hooks(plugin)
        except pluggy.PluginValidationError:
            self._pm.unregister(plugin)
            raise

    def _unknown_hooks(self, plugin: object) -> None:
        """A function called edgec_* that is no hook at all: the `@hookimpl` was forgotten or the name is wrong."""
        known = [n for n in vars(hookspecs) if n.startswith("edgec_")]
        for name in dir(plugin):
            if name.startswith("edgec_") and callable(getattr(plugin, name)):
                if name not in known:
                    hint = did_you_mean(name, known, f"the hooks are {', '.join(known)}")
                    raise pluggy.PluginValidationError(plugin, f"there is no hook {name!r}; {hint}")
                if not hasattr(getattr(plugin, name), "edgec_impl"):
                    raise pluggy.PluginValidationError(plugin, f"{name!r} lacks the @hookimpl decorator")

    def passes(self) -> Catalog[Pass]:
        return self._collect("edgec_passes", "Pass")

    def targets(self) -> Catalog[Target]:
        return self._collect("edgec_targets", "Target")

    def formats(self) -> Catalog[ArtifactFormat]:
        return self._collect("edgec_formats", "ArtifactFormat")

    def format_of(self, path: Path) -> ArtifactFormat | None:
        """What reads a file, by its suffix; None for ONNX and what nobody knows."""
        found, suffix = self.formats(), path.suffix.lower()
        return found[suffix](suffix) if suffix in found else None

    def toolchains(self) -> dict[str, Path]:
        """Toolchain name -> path of its description; edgec's own are not in it."""
        out: dict[str, Path] = {}
        for plugin, table in self._tables("edgec_toolchains"):
            for name, path in table.items():
                if name in out:
                    self.diagnostics.warn("EC0112", f"toolchain {name!r} of plugin {plugin!r} is already provided")
                out.setdefault(name, Path(path))
        return out

    def target(self, name: str) -> Target:
        """An instance of the target called `name`.

        Raises:
            EdgecError: EC0101 unknown name; EC0112..EC0114 the plugin is at fault.
        """
        found = self.targets()
        if name not in found:
            raise error(
                "EC0101", f"no target is called {name!r}", hint=did_you_mean(name, list(found), _targets_hint(found))
            )
        return found[name](name)

    def _collect(self, hook: str, base: str) -> Catalog[Any]:
        out: Catalog[Any] = Catalog(base)
        for plugin, table in self._tables(hook):
            for name, ref in table.items():
                out.add(name, plugin, ref)
        return out

    def _tables(self, hook: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for impl in getattr(self._pm.hook, hook).get_hookimpls():  # one at a time: a bad plugin spoils only itself
            try:
                yield impl.plugin_name, dict(impl.function())
            except Exception as e:  # noqa: BLE001  as above
                self.diagnostics.warn(
                    "EC0111", f"plugin {impl.plugin_name!r} failed in {hook}: {type(e).__name__}: {e}"
                )


def _targets_hint(found: Catalog[Target]) -> str:
    return f"known: {', '.join(found)}; more come from plugins"
