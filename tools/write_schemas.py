"""Write docs/schema/*.json, the JSON Schemas editors check spec files with. A test fails when they are not current."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgec.project import json_schema as project_schema
from edgec.report import json_schema as report_schema
from edgec.specs.schema import OpTable, PipelineSpec, Scheme, TargetSpec, json_schema

SCHEMAS = {"target": TargetSpec, "ops": OpTable, "pipeline": PipelineSpec, "scheme": Scheme}


def main() -> int:
    folder = Path(__file__).resolve().parent.parent / "docs" / "schema"
    for name, cls in SCHEMAS.items():
        text = json.dumps(json_schema(cls), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    project = json.dumps(project_schema(), indent=1, ensure_ascii=False)
    (folder / "project.json").write_text(project + "\n", encoding="utf-8")
    report = json.dumps(report_schema(), indent=2, ensure_ascii=False)
    (folder / "report.json").write_text(report + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
