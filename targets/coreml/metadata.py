"""What the user tells of a model, as the builder writes it into the package: labels, texts, descriptions. Nothing else is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Location, did_you_mean, error
from edgec.targets.coreml.interface import Classifier, Interface
from edgec.targets.reading.labels import read_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgec.diagnostics import Diagnostics
    from edgec.targets.coreml.options import CoreMlOptions
    from edgec.targets.coreml.program import Program

CLASSES = "classes"
"""The user-defined entry that holds labels as a JSON list."""

_TEXTS = {"author": "author", "license": "license", "model_version": "version", "description": "short_description"}


@dataclass(frozen=True)
class Description:
    """`request`: for the builder. `interface`: with the classifier. `told`: names of what is said, for the report."""

    request: dict[str, Any]
    interface: Interface
    told: str


def describe(interface: Interface, options: CoreMlOptions) -> Description:
    """EC0653 where the labels fit no output, EC0103 where a description is of no feature."""
    labels = read_labels(options.labels) if options.labels is not None else []
    user = dict(options.user_metadata)
    if labels and options.labels_as == "metadata":
        user[CLASSES] = json.dumps(labels, ensure_ascii=False)
    elif labels:
        interface = replace(interface, classifier=_classifier(interface, labels, options.labels))
    metadata: dict[str, Any] = {to: text for name, to in _TEXTS.items() if (text := getattr(options, name))}
    metadata |= {"user": user} if user else {}
    metadata |= _descriptions(interface, options)
    request: dict[str, Any] = {"metadata": metadata}
    images = {p.feature: p.image.colours for p in interface.inputs if p.image is not None}
    if images:
        request["images"] = images
    if (c := interface.classifier) is not None:
        feature = next(p.feature for p in interface.outputs if p.name == c.output)
        request["classes"] = {"labels": list(c.labels), "output": feature, "label": c.label}
    said = [name.replace("_", " ") for name in _TEXTS if getattr(options, name)]
    said += [f"{len(labels)} labels"] if labels else []
    said += [f"descriptions of {', '.join(options.descriptions)}"] if options.descriptions else []
    said += list(options.user_metadata)
    return Description(request, interface, ", ".join(said))


def _classifier(interface: Interface, labels: Sequence[str], path: str | None) -> Classifier:
    """Of the first output that has as many numbers as there are labels."""
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if list(labels).count(label) > 1)
        what = f"two classes are called {twice!r}, and a classifier's dictionary has one entry a name"
        raise error("EC0653", what, Location(path), "name them apart, or --option labels-as=metadata")
    taken = {p.feature for p in (*interface.inputs, *interface.outputs)}
    for p in interface.outputs:
        sizes = [d for d in p.shape if isinstance(d, int)]
        if len(sizes) == len(p.shape) and math.prod(sizes) == len(labels) and p.dtype in ("fp16", "fp32"):
            label = next(n for n in ("classLabel", "predictedLabel", "_classLabel") if n not in taken)
            return Classifier(p.name, tuple(labels), label, f"{label}_probs")
    shapes = ", ".join(f"{p.feature} {list(p.shape)}" for p in interface.outputs)
    what = f"there are {len(labels)} labels, and no output has so many numbers: {shapes}"
    hint = "one line a class; --option labels-as=metadata for detectors and images of classes"
    raise error("EC0653", what, Location(path), hint)


def _descriptions(interface: Interface, options: CoreMlOptions) -> dict[str, dict[str, str]]:
    """By the names of the ONNX model or of the package."""
    found: dict[str, dict[str, str]] = {}
    known: dict[str, tuple[str, str]] = {}
    for end, ports in (("inputs", interface.inputs), ("outputs", interface.outputs)):
        for p in ports:
            c = interface.classifier
            feature = c.values if c is not None and end == "outputs" and p.name == c.output else p.feature
            known |= {p.name: (end, feature), p.feature: (end, feature), feature: (end, feature)}
    if (c := interface.classifier) is not None:
        known[c.label] = ("outputs", c.label)
    for name, text in options.descriptions.items():
        if name not in known:
            hint = did_you_mean(name, list(known), f"there are {', '.join(known)}")
            raise error("EC0103", f"descriptions: the package has no input or output {name!r}", hint=hint)
        end, feature = known[name]
        found.setdefault(end, {})[feature] = text
    return found


def say_scores(interface: Interface, program: Program, diagnostics: Diagnostics) -> None:
    """A note (EC0662) where the values of a classifier are no probabilities: apps show them as confidence."""
    if (c := interface.classifier) is None:
        return
    feature = next(p.feature for p in interface.outputs if p.name == c.output)
    made = {v: o for o in program.operations for v in o.outputs}
    value = next(v for v in program.outputs if v.name == feature)
    while (o := made.get(value)) is not None and o.op in ("identity", "cast", "reshape", "squeeze", "expand_dims"):
        value = next(o.reads())
    if o is None or o.op not in ("softmax", "sigmoid"):
        what = f"{c.values} holds the numbers of output {c.output!r}, which are no probabilities: no Softmax made them"
        hint = "classLabel is right all the same; export the model with its Softmax where apps show a confidence"
        diagnostics.note("EC0662", what, hint=hint)
