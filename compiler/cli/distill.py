"""`edgec distill`: a small model trained towards a large one, on inputs without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.distilling import Learnt

app = single()

_TRAINING = "Training"


@app.command()
def distill(
    teacher: Annotated[Path, typer.Option("--teacher", metavar="FILE", help="The model that is learnt from: ONNX.")],
    student: Annotated[Path, typer.Option("--student", metavar="FILE", help="The model that is trained: ONNX.")],
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="DATA", help="Inputs, unlabelled: .npy, .npz, folder of images, module:function."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the trained student.")],
    samples: Annotated[
        str | None,
        typer.Option(
            "--samples", metavar="DATA", help="Inputs to compare on; default: every eighth of --data, not trained on."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Classes of --data, .npy or one a line; mixed in by --hard."),
    ] = None,
    hard: Annotated[
        float | None, typer.Option("--hard", help="Share of the cross-entropy with --labels; default 0.3 with them.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Rounds through the samples; default 20.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Batches to train on, instead of --epochs.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Samples a batch; default 32.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Greatest learning rate; default 0.001.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the softmax of classes; default 4.")
    ] = None,
    loss: Annotated[
        Literal["auto", "kl", "mse"] | None, typer.Option("--loss", help="kl: outputs are classes; mse: numbers.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment", metavar="flip,zoom", help="Views of images: flip, crop, zoom, mix; auto, none (default)."
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="A,B", help="Values inside both models whose difference counts too, or auto."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of order and views; default 0.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Of the CPU; default PyTorch's choice.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="cpu|cuda", help="Where the student trains.")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option("--checkpoints", metavar="DIR", help="Where training keeps its state; default: edgec's cache."),
    ] = None,
    input_shape: o.InputShape = None,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    fit: o.Fit = None,
    layout: o.Layout = None,
    colour: o.Colour = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Train the weights of --student until it computes what --teacher does, on inputs without labels; write the student.

    Needs PyTorch: pip install "edgec[train]". The student's outputs must be outputs of the teacher. Epochs are judged by
    samples that are not trained on, and the best one is written. A run that was stopped goes on when the same command is
    given again, and ends with the same file. `recover{method=distillation}` does it within a pipeline, after `prune`.
    """
    from edgec.cli.opt import spare_the_source
    from edgec.diagnostics import Diagnostics
    from edgec.distilling import learn, read_labels, with_options
    from edgec.graph import Graph
    from edgec.output import check_writable, writing
    from edgec.training import DistillOptions, require_torch
    from edgec.training.defaults import automatic_views, checkpoint_folder
    from edgec.training.outcome import tell

    require_torch()
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    for source in (teacher, student):
        spare_the_source(source, output)
    check_writable(output)
    found = Diagnostics()
    classes = None if labels is None else read_labels(labels)
    small = Graph.load(student, diagnostics=found)
    given: dict[str, Any] = {
        "epochs": epochs, "steps": steps, "batch": batch, "lr": lr, "temperature": temperature, "loss": loss,
        "seed": seed, "threads": threads, "device": device,
        "hard": hard if hard is not None or classes is None else 0.3,
        "augment": automatic_views(small) if augment == "auto" else _names(augment, _VIEWS, "--augment"),
        "features": features if features == "auto" else _names(features, None, "--features"),
    }  # fmt: skip
    options = with_options(DistillOptions(), given)
    pre = o.preprocess(mean=mean, std=std, scale=scale, resize=resize, crop=crop, fit=fit, layout=layout, colour=colour)
    try:
        with console.progress() as progress:
            learnt = learn(
                small, Graph.load(teacher, diagnostics=found), data, options, samples=samples, labels=classes,
                preprocess=pre, input_shapes=input_shape or (), checkpoints=checkpoints or checkpoint_folder(),
                diagnostics=found, progress=progress,
            )  # fmt: skip
    except BaseException:
        console.diagnostics(found)  # they may say why
        raise
    tell(learnt.training, learnt.graph, found)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        learnt.graph.save(output)
    console.diagnostics(found)
    _show(learnt, output, console, quiet)
    console.data({"student": str(student), "teacher": str(teacher), "output": str(output), **_data(learnt, found)})
    return 0


_VIEWS = ("flip", "crop", "zoom", "mix")


def _names(text: str | None, known: tuple[str, ...] | None, option: str) -> tuple[str, ...] | None:
    if text is None or text == "none":
        return None
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    if known is not None and (wrong := [n for n in names if n not in known]):
        raise typer.BadParameter(f"{wrong[0]!r} is none of {', '.join(known)}, auto and none", param_hint=option)
    return names


def _show(learnt: Learnt, output: Path, console: Console, quiet: bool) -> None:
    if quiet:
        console.line(str(output))
        return
    t = learnt.training
    again = f", resumed after {t.resumed_at}" if t.resumed_at else ""
    console.line(
        f"trained on {t.steps} batches{again}, best after {t.best_step}; {t.seconds:.1f} s; "
        f"loss on held-out samples {t.loss_before:.4g} -> {t.loss_after:.4g}"
    )
    console.line(f"against the teacher, on {learnt.compared_on}:")
    rows = [
        (when, *row)
        for when, c in (("before", learnt.before), ("after", learnt.after))
        for row in c.table()
    ]  # fmt: skip
    console.table(("student", *learnt.before.COLUMNS), rows)
    console.line(f"written to {output}: {output.stat().st_size / 1e6:.2f} MB")


def _data(learnt: Learnt, found: Any) -> dict[str, Any]:
    t = learnt.training
    return {
        "batches": t.steps, "best_batch": t.best_step, "resumed_at": t.resumed_at, "seconds": t.seconds,
        "loss": {"before": t.loss_before, "after": t.loss_after}, "history": [list(row) for row in t.history],
        "before": learnt.before.to_json(), "after": learnt.after.to_json(), "compared_on": learnt.compared_on,
        "diagnostics": list(found),
    }  # fmt: skip
