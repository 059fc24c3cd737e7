"""Where training stands, on disk: one .npz without pickles, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location
from edgec.output import writing

Array = npt.NDArray[Any]
_FORMAT = 3


def run_key(*parts: str) -> str:
    """What names a training run: everything its result depends on."""
    return hashlib.sha256("\n".join((str(_FORMAT), *parts)).encode()).hexdigest()[:24]


@dataclass
class State:
    """After `step` batches. `parameters`, `optimizer` (parameter/what -> array), and the best parameters so far."""

    step: int = 0
    parameters: dict[str, Array] = field(default_factory=dict)
    optimizer: dict[str, Array] = field(default_factory=dict)
    best: dict[str, Array] = field(default_factory=dict)
    best_step: int = 0
    least: list[float] = field(default_factory=list)
    """Of the epoch of least mean loss, the loss on each held-out sample."""
    history: list[list[float]] = field(default_factory=list)
    """[step, mean training loss since the last row, loss on held-out samples] each."""
    running: list[float] = field(default_factory=list)
    """Training losses since the last row."""
    caution: float = 1.0
    """What the learning rate is multiplied by: less after steps that were too large."""


class Checkpoint:
    """The state of one run, in `folder/<key>/state.npz`."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / key / "state.npz"

    def load(self, diagnostics: Diagnostics) -> State | None:
        """The state last saved; None if there is none. One that cannot be read is told (EC0325), and ignored."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            about = json.loads(str(arrays.pop("about")))
            groups: dict[str, dict[str, Array]] = {"parameters": {}, "optimizer": {}, "best": {}}
            for name, array in arrays.items():
                group, _, rest = name.partition("|")
                groups[group][rest] = array
            return State(
                about["step"],
                groups["parameters"],
                groups["optimizer"],
                groups["best"],
                about["best_step"],
                about["least"],
                about["history"],
                about["running"],
                about["caution"],
            )
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            NotImplementedError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as e:
            why = (
                "it is no archive" if "pickle" in str(e) else e
            )  # what numpy says then is advice that nobody should follow
            message = f"the checkpoint cannot be read, training begins anew: {why}"
            diagnostics.warn("EC0325", message, Location(str(self.path)))
            return None

    def save(self, state: State) -> None:
        """Write the state: the file is the old one or the new one, never half of one.

        Raises:
            EdgecError: EC0903, EC0904 it cannot be written.
        """
        about = {k: getattr(state, k) for k in ("step", "best_step", "least", "history", "running", "caution")}
        arrays: dict[str, Array] = {"about": np.array(json.dumps(about))}
        groups: Mapping[str, Mapping[str, Array]] = {
            "parameters": state.parameters, "optimizer": state.optimizer, "best": state.best,
        }  # fmt: skip
        for group, members in groups.items():
            arrays.update({f"{group}|{name}": a for name, a in members.items()})
        tmp = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with writing(self.path, "checkpoints"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with tmp.open("wb") as f:
                    np.savez(f, **arrays)  # type: ignore[arg-type]  # its stubs take the names for allow_pickle
                    f.flush()
                    os.fsync(f.fileno())
                tmp.replace(self.path)
            finally:
                tmp.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the state; its folder goes too, if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
