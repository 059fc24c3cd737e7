"""The models of the accuracy tables and their samples: those of evaluate.py, and photos, text and sound for the others.

A model of evaluate.py's tasks is calibrated on its `calibration(task)` and judged on the rest, by it. The others have no
labels; they are compared with the float model on inputs of the kind they were made for: photos of the same data sets, lines of
text drawn on photos, synthetic voiced sound. Judged samples are never among the calibration ones. Everything is deterministic.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np

Feeds = dict[str, np.ndarray]
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,-:/"


@dataclass(frozen=True)
class Bench:
    """A model: the shapes its inputs are fixed to, and where samples come from (None: a task of evaluate.py)."""

    shapes: dict[str, tuple[int, ...]]
    samples: Callable[[bool], Iterator[Feeds]] | None = None


def eval_dir() -> Path:
    try:
        return Path(os.environ["EDGEC_EVAL_DIR"])
    except KeyError:
        raise SystemExit("EDGEC_EVAL_DIR must name the folder with evaluate.py, models/ and data/") from None


@cache
def judge() -> ModuleType:
    sys.path.insert(0, str(eval_dir()))
    import evaluate

    return evaluate


def model_path(name: str) -> Path:
    return eval_dir() / "models" / f"{name}.onnx"


def calibration(name: str, count: int) -> Iterator[Feeds]:
    bench = BENCHES[name]
    if bench.samples is None:
        (key,) = bench.shapes
        return ({key: x} for x in islice(judge().calibration(name), count))
    return islice(bench.samples(False), count)


def judged(name: str, count: int) -> Iterator[Feeds]:
    """Samples to compare on, for the models that evaluate.py does not know."""
    samples = BENCHES[name].samples
    assert samples is not None
    return islice(samples(True), count)


# --- photos ------------------------------------------------------------------------------------------------------------


def photos(judged: bool) -> Iterator[np.ndarray]:
    """RGB uint8 [H, W, 3]: first those of coco64 (every 4th calibrates), then of imagenet1k_256 (every 10th calibrates)."""
    from PIL import Image

    data = eval_dir() / "data"
    for folder, every in (("coco64/images", 4), ("imagenet1k_256", 10)):
        for i, path in enumerate(sorted((data / folder).rglob("*.jpg"))):
            if (i % every != 0) == judged:
                yield np.asarray(Image.open(path).convert("RGB"))


def resized(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR), np.float32)


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)


def nudenet(judged: bool) -> Iterator[Feeds]:
    return ({"images": nchw(resized(p, 320, 320) / 255)} for p in photos(judged))


def upscaler(judged: bool) -> Iterator[Feeds]:
    """64x64 cut from the middle, 0..255, as upscaler.js feeds it."""
    for p in photos(judged):
        y, x = (p.shape[0] - 64) // 2, (p.shape[1] - 64) // 2
        yield {"LR": nchw(p[y : y + 64, x : x + 64])}


def selfie(judged: bool) -> Iterator[Feeds]:
    return ({"input_1": (resized(p, 256, 256) / 255)[None]} for p in photos(judged))


# --- text --------------------------------------------------------------------------------------------------------------


def text_on(photo: np.ndarray, lines: int, rng: random.Random) -> np.ndarray:
    """The photo with `lines` lines of random letters drawn on it, in random colours."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(photo.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for i in range(lines):
        size = min(rng.randint(16, 40), image.height // lines * 3 // 4)
        text = "".join(rng.choices(LETTERS, k=rng.randint(5, 16)))
        at = (rng.randint(2, image.width // 4), image.height * i // lines + rng.randint(0, 4))
        colour = tuple(rng.choice((rng.randint(0, 60), rng.randint(190, 255))) for _ in range(3))
        draw.text(at, text, fill=colour, font=ImageFont.load_default(size))
    return np.asarray(image, np.float32)


def text_detection(judged: bool) -> Iterator[Feeds]:
    rng = random.Random(int(judged))
    for p in photos(judged):
        drawn = text_on(resized(p, 480, 480), rng.randint(2, 8), rng)
        yield {"x": nchw((drawn[..., ::-1] / 255 - MEAN) / STD)}


def text_strips(judged: bool, width: int) -> Iterator[np.ndarray]:
    """One line of text on a strip of a photo, BGR [48, width, 3]."""
    rng = random.Random(int(judged))
    for p in photos(judged):
        top = (width - 48) // 2
        yield text_on(resized(p, width, width)[top : top + 48], 1, rng)[..., ::-1]


def text_direction(judged: bool) -> Iterator[Feeds]:
    """Every other line upside down: what the classifier tells apart."""
    for i, strip in enumerate(text_strips(judged, 192)):
        yield {"x": nchw(((strip[::-1, ::-1] if i % 2 else strip) / 255 - 0.5) / 0.5)}


def text_line(judged: bool) -> Iterator[Feeds]:
    return ({"x": nchw((strip / 255 - 0.5) / 0.5)} for strip in text_strips(judged, 320))


# --- sound -------------------------------------------------------------------------------------------------------------


def voice(judged: bool) -> Iterator[Feeds]:
    """Frames of synthetic voiced sound and silence at 16 kHz, the state carried on by the float model."""
    import onnxruntime as ort

    rng = np.random.default_rng(int(judged))
    session = ort.InferenceSession(str(model_path("silero_vad_16k_op15")), providers=["CPUExecutionProvider"])
    t = np.arange(16000) / 16000
    while True:
        pitch = 90 + 150 * rng.random() + 20 * np.sin(2 * np.pi * 3 * t)
        phase = 2 * np.pi * np.cumsum(pitch) / 16000
        formants = rng.uniform((300, 900, 2200), (900, 2200, 3200))
        harmonics = np.arange(1, 30)[:, None]
        weight = sum(np.exp(-(((harmonics * 160 - f) / 150) ** 2)) for f in formants)
        sound = (weight * np.sin(harmonics * phase)).sum(0) * (np.sin(2 * np.pi * (2 + 2 * rng.random()) * t) > -0.3)
        sound = (0.3 * sound / np.abs(sound).max() + 0.01 * rng.standard_normal(16000)).astype(np.float32)
        state = np.zeros((2, 1, 128), np.float32)
        for start in range(512, 16000 - 512, 512):
            feeds = {"input": sound[None, start - 64 : start + 512], "state": state, "sr": np.array(16000)}
            yield feeds
            _, state = session.run(None, feeds)


BENCHES: dict[str, Bench] = {
    "mobilenet_v2": Bench({"input": (1, 3, 224, 224)}),
    "efficientnet_lite0": Bench({"input": (1, 3, 224, 224)}),
    "cifar10_resnet20": Bench({"input": (1, 3, 32, 32)}),
    "fastestdet": Bench({"input.1": (1, 3, 352, 352)}),
    "mlperf_kws_dscnn": Bench({"input_1": (1, 49, 10, 1)}),
    "mnist_cnn_digitrec": Bench({"x": (1, 1, 28, 28)}),
    "ppocr_cls_mbv3": Bench({"x": (1, 3, 48, 192)}, text_direction),
    "ppocrv4_det": Bench({"x": (1, 3, 480, 480)}, text_detection),
    "ppocrv4_rec": Bench({"x": (1, 3, 48, 320)}, text_line),
    "nudenet_320n": Bench({"images": (1, 3, 320, 320)}, nudenet),
    "sr_rdn_x2_upscalerjs": Bench({"LR": (1, 3, 64, 64)}, upscaler),
    "selfie_segmentation": Bench({"input_1": (1, 256, 256, 3)}, selfie),
    "silero_vad_16k_op15": Bench({"input": (1, 576), "state": (2, 1, 128), "sr": ()}, voice),
}

UNCLASSED = {
    "fastestdet",
    "ppocrv4_det",
    "ppocrv4_rec",
    "nudenet_320n",
    "sr_rdn_x2_upscalerjs",
    "selfie_segmentation",
    "silero_vad_16k_op15",
}
"""Whose first output is not one score a class: argmax says nothing of them."""
