#!/usr/bin/env python3
"""A trtexec that builds nothing: it says its version, takes the options that version has, and refuses others as it does.

Which options: samples/common/sampleOptions.cpp of NVIDIA/TensorRT at the tags 8.2.1, 8.5.2, v8.6.1, v10.3.0, v10.7.0,
v10.12.0, v10.16 and v11.1. The version is in FAKE_VERSION ("10.3.0"); without it the banner is missing. FAKE_FAIL: what to
print as an error instead of building; FAKE_SECONDS: how long a build takes; FAKE_ARGUMENTS: where to write the arguments;
FAKE_EMPTY: succeed without an engine.
"""

import json
import os
import re
import sys
import time

ALWAYS = {
    "--onnx", "--saveEngine", "--minShapes", "--optShapes", "--maxShapes", "--timingCacheFile", "--profilingVerbosity",
    "--dumpLayerInfo", "--exportLayerInfo", "--sparsity", "--useDLACore", "--allowGPUFallback", "--verbose", "--noTF32", "--help",
}  # fmt: skip


def known(version):
    flags = set(ALWAYS)
    if version < (11,):
        flags |= {"--fp16", "--int8", "--best", "--calib", "--layerPrecisions", "--precisionConstraints"}
    if version >= (8, 4):
        flags.add("--memPoolSize")
    if version < (10,):
        flags |= {"--buildOnly", "--workspace"}
    if version >= (8, 6):
        flags |= {"--skipInference", "--builderOptimizationLevel"}
    if version >= (10,):
        flags.add("--stronglyTyped")
    return flags


def number(version):
    major, minor, patch = version
    return major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch


def fail(message):
    print(f"[11/21/2026-12:00:00] [E] {message}")
    sys.exit(1)


def main():
    text = os.environ.get("FAKE_VERSION", "")
    version = tuple(int(p) for p in text.split(".")) if text else (10, 3, 0)
    if text:
        print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number(version)}] # {' '.join(sys.argv)}")
    given = dict(a.partition("=")[::2] for a in sys.argv[1:])
    if "--help" in given:
        print("\n".join(f"  {flag}" for flag in sorted(known(version))))
        return
    if "FAKE_ARGUMENTS" in os.environ:
        with open(os.environ["FAKE_ARGUMENTS"], "w") as f:
            json.dump(sys.argv[1:], f)
    for flag in given:
        if flag not in known(version):
            fail(f"Unknown option: {flag} {given[flag]}")
    if not os.path.isfile(given["--onnx"]):
        fail(f"Could not open file {given['--onnx']}")
    if "--calib" in given and not os.path.isfile(given["--calib"]):
        fail("Could not read the calibration cache")
    shapes = [{p.rpartition(":")[0] for p in given.get(f"--{k}Shapes", "").split(",")} for k in ("min", "opt", "max")]
    if not shapes[0] == shapes[1] == shapes[2]:
        fail("Shapes of min, opt and max are of other inputs")
    for pool in filter(None, given.get("--memPoolSize", "").split(",")):
        if not re.fullmatch(r"(workspace|dlaSRAM|dlaLocalDRAM|dlaGlobalDRAM):\d+(\.\d+)?", pool):
            fail(f"conversion failure: {pool}")  # 8.5 takes no unit
    if not {"--buildOnly", "--skipInference"} & set(given):
        fail("would run the engine")
    if "FAKE_FAIL" in os.environ:
        fail(os.environ["FAKE_FAIL"])
    plan = given["--saveEngine"]
    with open(plan, "wb") as f:
        f.write(b"" if "FAKE_EMPTY" in os.environ else b"half")
        f.flush()
        print("building")
        sys.stdout.flush()
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if "FAKE_EMPTY" not in os.environ:
            f.write(f" whole {text}".encode())
    with open(given["--exportLayerInfo"], "w") as f:
        json.dump({"Layers": []}, f)
    with open(given["--timingCacheFile"], "ab") as f:
        f.write(b"x")
    print("&&&& PASSED TensorRT.trtexec")


main()
