"""Our description of the .tflite format against LiteRT's own, and our files in LiteRT's interpreter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models as models

from edgec.targets.tflite import schema, versions
from edgec.targets.tflite.model import Operator, SubGraph, TfliteModel
from edgec.targets.tflite.writer import write
from edgec.toolchain import Toolchain
from edgec.toolchain.installer import uv_binary

pytestmark = pytest.mark.toolchain

# LiteRT's generated Python as JSON: enumerations, and (slot, kind of slot, default) of every field of every table.
INTROSPECT = r"""
import json, pathlib, re, sys
source = pathlib.Path(sys.argv[1]).read_text()
enums, tables = {}, {}
for body in re.split(r"^class ", source, flags=re.M)[1:]:
    name = re.match(r"\w+", body).group()
    if "__slots__" in body:
        adders = re.findall(
            r"def " + name + r"Add(\w+)\(builder, \w+\):\n    builder\.Prepend(\w+)Slot\((\d+), .+, (\S+?)\)\n", body)
        count = int(re.search(r"StartObject\((\d+)\)", body).group(1))
        tables[name] = [count, {f: [int(s), k, float(d)] for f, k, s, d in adders}]
    elif "def __init__" not in body:
        enums[name] = {n: int(v) for n, v in re.findall(r"^    (\w+) = (-?\d+)$", body, flags=re.M)}
json.dump([enums, tables], sys.stdout)
"""

INTERPRET = r"""
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
runner = interpreter.get_signature_runner()
inputs = {n: np.ones(d["shape"], d["dtype"]) for n, d in runner.get_input_details().items()}
json.dump({n: v.tolist() for n, v in runner(**inputs).items()}, sys.stdout)
"""


REGISTERED = r"""
import json, pathlib, sys
from ai_edge_litert.interpreter import Interpreter, OpResolverType
missing = []
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    except ValueError as e:  # other mistakes of these operators (they have no options) do not matter
        if "Didn't find op" in str(e):
            missing.append(path.stem)
json.dump(missing, sys.stdout)
"""


@pytest.fixture(scope="module")
def litert(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("litert")


def _python(toolchain: Toolchain, program: str, *arguments: str) -> Any:
    done = subprocess.run(
        [str(toolchain.python), "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def theirs(litert: Toolchain) -> Any:
    (source,) = litert.python.parent.parent.glob("lib/python*/site-packages/ai_edge_litert/schema_py_generated.py")
    return _python(litert, INTROSPECT, str(source))


def test_enumerations(theirs: Any) -> None:
    enums, _ = theirs
    ours = {e.name: dict(e.values) for e in schema.ENUMS.values()}
    ours |= {u: {"NONE": 0, **{t: i + 1 for i, t in enumerate(tables)}} for u, tables in schema.UNIONS.items()}
    assert len(enums) >= 20
    assert {name: ours[name] for name in enums} == enums


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _slots(table: schema.Table) -> Iterator[tuple[str, list[Any]]]:
    """Fields as LiteRT's generated code names and writes them."""
    for f in table.fields.values():
        if f.kind in schema.UNIONS:
            yield _plain(f.name) + "type", [f.slot - 1, "Uint8", 0.0]
        scalar = not f.vector and f.kind in (*schema.SCALARS, *schema.ENUMS)
        kind = schema.storage(f.kind).capitalize() if scalar else "UOffsetTRelative"
        yield _plain(f.name), [f.slot, kind, float(f.default) if scalar else 0.0]


def test_tables(theirs: Any) -> None:
    _, tables = theirs
    assert len(tables) >= 170
    for name, (count, fields) in tables.items():
        ours = schema.TABLES[name]
        assert ours.slots == count, name
        assert dict(_slots(ours)) == {_plain(f): slot for f, slot in fields.items()}, name


@pytest.mark.parametrize("large", [False, True])
def test_interpreter_reads_our_files(litert: Toolchain, tmp_path: Path, large: bool) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(write(models.float_model(), large=large))
    (scores,) = _python(litert, INTERPRET, str(path)).values()
    assert max(max(row) for image in scores for line in image for row in line) > 7  # at least the last bias


def test_interpreter_reads_int4(litert: Toolchain, tmp_path: Path) -> None:
    """Against the same in NumPy: what 1.0 is as int8, times the rows of int4, on the result's grid."""
    model = models.int8_model()
    path = tmp_path / "model.tflite"
    path.write_bytes(write(model))
    (found,) = _python(litert, INTERPRET, str(path)).values()
    _, weights, bias = model.main.operators[1].inputs
    assert weights is not None
    assert bias is not None
    assert weights.data is not None
    assert weights.quant is not None
    assert bias.data is not None
    assert bias.quant is not None
    real = (weights.data * weights.quant.scale[:, None]).sum(axis=1) + bias.data * bias.quant.scale
    expected = np.clip(np.round(real / 0.5) - 2, -128, 127)
    assert np.abs(np.array(found)[0] - expected).max() <= 1


def test_interpreter_has_every_version_we_may_write(
    litert: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that no runtime has makes a file useless. Nothing is run: looking the operator up is enough."""
    wanted = {(op, version) for op, rules in versions._RULES.items() for version, _ in rules}
    assert len(wanted) > 200
    for op, version in wanted:
        monkeypatch.setattr(versions, "op_version", lambda _, version=version: version)
        x, y = models.tensor("x", (1, 4)), models.tensor("y", (1, 4))
        model = TfliteModel([SubGraph("main", [x], [y], [Operator(op, [x], [y])])])
        (tmp_path / f"{op} {version}.tflite").write_bytes(write(model))
    # Stated by op_version.cc, registered by no runtime: LSTMs with activations of int16 are tflite-micro's.
    assert set(_python(litert, REGISTERED, str(tmp_path))) == {"LSTM 5", "UNIDIRECTIONAL_SEQUENCE_LSTM 5"}


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated Python of TFLite Metadata's schema, out of tflite-support's wheel, and a flatbuffers to run it."""
    folder = tmp_path_factory.mktemp("support")
    command = [
        str(uv_binary()),
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(folder),
        "--python-version",
        "3.11",
    ]
    done = subprocess.run([*command, "tflite-support==0.4.4"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"tflite-support cannot be installed here: {done.stderr.strip()[-200:]}")
    return folder / "tensorflow_lite_support/metadata/metadata_schema_py_generated.py"


def test_metadata_tables(litert: Toolchain, support: Path) -> None:
    """tflite-support knows the metadata's schema up to 1.4: later fields of ours stand behind its."""
    _, tables = _python(litert, INTROSPECT, str(support))
    assert len(tables) >= 20
    for name, (_, fields) in tables.items():
        ours = dict(_slots(schema.TABLES[name]))
        assert {f: ours[f] for f in map(_plain, fields)} == {_plain(f): slot for f, slot in fields.items()}, name
