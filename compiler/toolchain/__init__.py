"""Vendor SDKs, each in an environment of its own, driven through files by a small worker script.

    manager = ToolchainManager(progress=print)
    rknn = manager.ensure("rknn")                      # installs it from its lock file when needed
    answer = rknn.run(worker_script, {"model": "model.onnx"}, files={"model.onnx": path}, workdir=folder)
    answer.values, answer.path("model.rknn"), answer.log

No SDK is ever imported into edgec's process: they pin what nobody else pins, print, crash and hang.
"""

from __future__ import annotations

from edgec.toolchain.description import ToolchainDescription, load_description
from edgec.toolchain.manager import Check, Toolchain, ToolchainManager, ToolchainStatus
from edgec.toolchain.worker import PROTOCOL, Answer, Step, Worker, WorkerError, run_worker

__all__ = [
    "PROTOCOL",
    "Answer",
    "Check",
    "Step",
    "Toolchain",
    "ToolchainDescription",
    "ToolchainManager",
    "ToolchainStatus",
    "Worker",
    "WorkerError",
    "load_description",
    "run_worker",
]
