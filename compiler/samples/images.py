"""Images: decoded with Pillow, brought to the model's size, colour order, layout and range.

EXIF orientation is not applied: neither torchvision's nor TensorFlow's loaders, whose pixels models are trained on, do.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import EdgecError, Location, error
from edgec.samples.inputs import ImageAxes, InputSpec, image_axes
from edgec.samples.preprocess import Colour, Preprocess

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def read_image(path: Path) -> Image.Image:
    """Decode a file, in full.

    Raises:
        EdgecError: EC0703 the file is missing, corrupt, or so large that Pillow takes it for a decompression bomb.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
            image.load()
    except UnidentifiedImageError:
        raise _corrupt(path, "it is not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise _corrupt(path, f"it is too large to be safe ({e})") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as e:  # what Pillow's decoders raise
        raise _corrupt(path, str(e) or type(e).__name__) from None
    return image


def _corrupt(path: Path, why: str) -> EdgecError:
    return error("EC0703", f"cannot read the image: {why}", Location(str(path)), "remove the file or replace it")


def axes_for_images(spec: InputSpec, pre: Preprocess, source: str) -> ImageAxes:
    """The image axes of `spec`, with a size settled.

    Raises:
        EdgecError: EC0709 the input is no image, its size is open, or the colour asked for does not fit its channels.
    """
    where = Location(source)
    axes = image_axes(spec, pre.layout)
    if axes is None:
        message = f"input {spec.name!r} is {spec}, which is not an image"
        raise error("EC0709", message, where, "give arrays (.npy, .npz), or layout: NCHW or NHWC")
    if axes.channels not in (1, 3):
        message = f"input {spec.name!r} is {spec}: images have 1 or 3 channels, {axes.layout} makes it {axes.channels}"
        raise error("EC0709", message, where, "say the layout (NCHW or NHWC), or give arrays")
    colour = pre.colour or ("GRAY" if axes.channels == 1 else "RGB")
    if (colour == "GRAY") != (axes.channels == 1):
        raise error(
            "EC0709", f"colour {colour} does not fit the {axes.channels} channels of input {spec.name!r}", where
        )
    if spec.batch != 1:
        message = f"input {spec.name!r} takes {spec.batch} images at once; edgec feeds one"
        raise error(
            "EC0709", message, where, "fix the batch size at 1 with --input-shape, or give arrays of whole batches"
        )
    asked = pre.crop or (pre.resize if isinstance(pre.resize, tuple) else None)
    height, width = axes.height or (asked and asked[0]), axes.width or (asked and asked[1])
    if not height or not width:
        message = f"input {spec.name!r} is {spec}: nothing says how large its images are"
        raise error("EC0709", message, where, "give --input-shape, or resize: [height, width]")
    return ImageAxes(axes.layout, axes.channels, height, width)


def image_to_input(image: Image.Image, spec: InputSpec, axes: ImageAxes, pre: Preprocess) -> npt.NDArray[Any]:
    """One sample of `spec` (with its batch axis, if it has one) from a decoded image. Deterministic."""
    assert axes.height is not None  # axes_for_images saw to all three
    assert axes.width is not None
    assert spec.shape is not None
    colour: Colour = pre.colour or ("GRAY" if axes.channels == 1 else "RGB")
    image = _eight_bit(image).convert("L" if colour == "GRAY" else "RGB")
    pixels = np.asarray(_geometry(image, axes.height, axes.width, pre))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if colour == "BGR":
        pixels = pixels[..., ::-1]
    out: npt.NDArray[Any] = pixels
    if np.issubdtype(spec.dtype, np.integer):
        check_integer_input(spec, pixels, pre)
    else:
        out = pre.normalise(pixels, -1)
    out = out.astype(spec.dtype)
    if axes.layout == "NCHW":
        out = out.transpose(2, 0, 1)
    return np.ascontiguousarray(out[None] if len(spec.shape) == 4 else out)


def check_integer_input(spec: InputSpec, pixels: npt.NDArray[Any], pre: Preprocess) -> None:
    """EC0706 unless `pixels` can be fed to an integer input unchanged."""
    if pre.normalises:
        message = f"input {spec.name!r} takes {spec.dtype.name}, but mean, std or scale make floats of the pixels"
        raise error("EC0706", message, hint="leave them out: the model normalises by itself")
    info = np.iinfo(spec.dtype)
    if pixels.size and (pixels.min() < info.min or pixels.max() > info.max):
        found = f"{pixels.min()}..{pixels.max()}"
        message = f"input {spec.name!r} takes {spec.dtype.name} ({info.min}..{info.max}), the data holds {found}"
        raise error("EC0706", message, hint="give arrays in the model's own integer representation")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit images scaled to 8 bits: Pillow would clip them."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.clip(np.asarray(image).astype(np.float64), 0, 65535) / 257).round().astype(np.uint8))
    return image


def _geometry(image: Image.Image, height: int, width: int, pre: Preprocess) -> Image.Image:
    from PIL import Image

    how = getattr(Image.Resampling, pre.interpolation.upper())
    w, h = image.size
    mode = pre.effective_mode
    if mode == "stretch":
        return image.resize((width, height), how) if (w, h) != (width, height) else image
    if mode == "letterbox":
        s = min(width / w, height / h)
        inner = (max(1, min(width, round(w * s))), max(1, min(height, round(h * s))))
        canvas = Image.new(image.mode, (width, height), (round(pre.pad),) * len(image.getbands()))
        canvas.paste(image.resize(inner, how), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return canvas
    if isinstance(pre.resize, tuple):
        size = (max(width, pre.resize[1]), max(height, pre.resize[0]))
    else:
        s = pre.resize / min(w, h) if pre.resize is not None else max(width / w, height / h)
        size = (max(width, round(w * s)), max(height, round(h * s)))
    if size != image.size:
        image = image.resize(size, how)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
