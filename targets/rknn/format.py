"""`edgec inspect` of an .rknn file: its operators and who runs them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.artifact_format import ArtifactFormat, Inspection
from edgec.summary import size
from edgec.targets.rknn.flatbuffer import COMPACT_FORMAT, format_version, read_rknn

if TYPE_CHECKING:
    from edgec.summary import Line


class RknnFormat(ArtifactFormat):
    """Of edgec or of rknn-toolkit2. EC0631 where it is damaged. Only the chip, or the SDK that built it, runs one."""

    def inspect(self, path: Path) -> Inspection:
        head = f"  RKNN, {size(path.stat().st_size)}"
        if format_version(path) == COMPACT_FORMAT:
            lines: list[Line] = [
                ("title", str(path)),
                ("text", f"{head}, the compact form: a program without a list of operators"),
            ]
            return Inspection(lines, {"format": "rknn", "bytes": path.stat().st_size})
        found = read_rknn(path)
        ops = Counter((o.type, o.target) for o in found.operators)
        lines = [
            ("title", str(path)),
            ("text", f"{head}, for {found.platform}, {found.version}"),
            ("heading", f"operators: {len(found.operators)}"),
            *(
                ("text", f"  on the {who}: " + ", ".join(f"{op} {n}" for (op, at), n in ops.most_common() if at == who))
                for who in sorted({o.target for o in found.operators})
            ),
        ]
        text = "".join(
            f"{', '.join(o.outputs)} = {o.type}({', '.join(o.inputs)}) on {o.target}\n" for o in found.operators
        )
        operators = [{"type": o.type, "name": o.name, "target": o.target} for o in found.operators]
        data = {
            "format": "rknn", "bytes": path.stat().st_size, "platform": found.platform, "version": found.version,
            "operators": operators,
        }  # fmt: skip
        return Inspection(lines, data, text)
