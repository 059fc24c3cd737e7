"""Torch-Pruning on an ONNX file, through onnx2torch: group magnitude, the ratio found by halving for the MACs that are to go.
Where that breaks the model (resnet20's shortcuts are padded with channels, which Torch-Pruning loses), inside blocks only.

Options: macs=0.3; round_to=8 (channels stay multiples of it); recover=none|distil, steps=400, batch=16, lr=0.0001: the loop a
user of PyTorch would write, Adam on the divergence from the dense network's softened classes, images flipped by chance.
"""

import harness  # isort: skip  (starts the clock)

import copy
import sys
import types

import numpy as np
import onnx
import torch
import torch.nn.functional as F
import torch_pruning as tp

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):  # a build for CUDA beside one of PyTorch for CPUs; its boxes are not needed here
    for name in [n for n in sys.modules if n.startswith("torchvision")]:
        del sys.modules[name]
    empty, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    ops.nms = ops.roi_align = None
    empty.ops = ops
    sys.modules |= {"torchvision": empty, "torchvision.ops": ops}

from onnx2torch import convert


def pruned(
    model: torch.nn.Module, example: torch.Tensor, ratio: float, round_to: int, inner: bool = False
) -> torch.nn.Module:
    """`inner`: only channels between two convolutions of a block."""
    model = copy.deepcopy(model)
    kept = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1:]
    if inner:
        kept += outer_convolutions(model)
    pruner = tp.pruner.MagnitudePruner(
        model, example, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio,
        ignored_layers=kept, round_to=round_to,
    )  # fmt: skip
    pruner.step()
    return model


def outer_convolutions(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Those whose output something else than one convolution reads, behind normalisation and activation."""
    modules = dict(model.named_modules())
    out = []
    for node in model.graph.nodes:
        if not isinstance(modules.get(str(node.target)), torch.nn.Conv2d):
            continue
        at = node
        while len(at.users) == 1 and type(modules.get(str(next(iter(at.users)).target))) in PLAIN:
            at = next(iter(at.users))
        reader = next(iter(at.users)) if len(at.users) == 1 else None
        if reader is None or not isinstance(modules.get(str(reader.target)), torch.nn.Conv2d):
            out.append(modules[str(node.target)])
    return out


PLAIN = (torch.nn.BatchNorm2d, torch.nn.ReLU, torch.nn.ReLU6)


def runs(model: torch.nn.Module, example: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            model(example)
    except RuntimeError:
        return False
    return True


def work(job: harness.Job) -> None:
    torch.manual_seed(0)
    options = job.options
    images = [torch.from_numpy(next(iter(f.values()))) for f in job.feeds()]
    example = images[0]
    dense = convert(onnx.load(job.source)).eval()
    with torch.no_grad():
        assert dense(example).shape[0] == 1
    full, _ = tp.utils.count_ops_and_params(dense, example)
    low, high, round_to = 0.0, 0.9, int(options.get("round_to", 8))
    inner = not runs(pruned(dense, example, 0.5, round_to), example)  # it may break a shortcut that is padded
    for _ in range(7):
        middle = (low + high) / 2
        macs, _ = tp.utils.count_ops_and_params(pruned(dense, example, middle, round_to, inner), example)
        low, high = (low, middle) if macs <= full * (1 - float(options["macs"])) else (middle, high)
    model = pruned(dense, example, high, round_to, inner)
    if options.get("recover") == "distil":
        train(model, dense, images, int(options["steps"]), int(options["batch"]), float(options["lr"]))
    names = {"input_names": [job.input_name], "output_names": [onnx.load(job.source).graph.output[0].name]}
    torch.onnx.export(model.eval(), (example,), str(job.out), dynamo=False, opset_version=17, **names)


def train(
    model: torch.nn.Module, dense: torch.nn.Module, images: list[torch.Tensor], steps: int, batch: int, lr: float
) -> None:
    """BatchNormalization keeps its statistics: batches are small."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        chosen = [images[i] for i in rng.choice(len(images), batch, replace=False)]
        x = torch.cat([i.flip(-1) if rng.random() < 0.5 else i for i in chosen])
        with torch.no_grad():
            wanted = torch.cat([dense(row[None]) for row in x])
        got = torch.cat([model(row[None]) for row in x]) if fixed_batch(model, x) else model(x)
        loss = 16 * F.kl_div(F.log_softmax(got / 4, 1), F.softmax(wanted / 4, 1), reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def fixed_batch(model: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether the converted graph reshapes to a batch of one."""
    with torch.no_grad():
        try:
            return bool(model(x).shape[0] != x.shape[0])
        except RuntimeError:
            return True


harness.work(work, ("torch-pruning", "onnx2torch", "torch"))
