"""Where Core ML runs each operation of a package on this Mac, as JSON.

    pip install coremltools            # macOS 14.4 or later
    python plan_on_mac.py              # model.mlpackage beside this file -> plan.json

`edgec compare FOLDER plan.json`, where the package was made, holds it against what was predicted. A plan is Core ML's own
estimate of this Mac; an iPhone's may differ. `--units CPU_AND_NE` leaves the GPU out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from pathlib import Path
from typing import Any


def plan(package: Path, units: str) -> dict[str, Any]:
    """What MLComputePlan tells of each operation of the program; constants have no device and are left out."""
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    compiled = ct.models.utils.compile_model(str(package))
    found = MLComputePlan.load_from_path(compiled, compute_units=ct.ComputeUnit[units])
    operations = []
    for o in found.model_structure.program.functions["main"].block.operations:
        usage = found.get_compute_device_usage_for_mlprogram_operation(o)
        cost = found.get_estimated_cost_for_mlprogram_operation(o)
        if usage is not None:
            operations.append(
                {
                    "outputs": [v.name for v in o.outputs],
                    "operator": o.operator_name,
                    "preferred": type(usage.preferred_compute_device).__name__,
                    "supported": [type(d).__name__ for d in usage.supported_compute_devices],
                    "cost": cost.weight if cost is not None else None,
                }
            )
    model = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    return {
        "plan": "MLComputePlan",
        "system": f"macOS {platform.mac_ver()[0]}",
        "machine": platform.machine(),
        "coremltools": ct.__version__,
        "compute_units": units,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "operations": operations,
    }


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, default=here / "model.mlpackage")
    parser.add_argument("--units", default="ALL", choices=["ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"])
    parser.add_argument("-o", "--output", type=Path, default=here / "plan.json")
    args = parser.parse_args()
    args.output.write_text(json.dumps(plan(args.package, args.units), indent=1) + "\n", encoding="utf-8")
    print(f"{args.output}: written")


if __name__ == "__main__":
    main()
