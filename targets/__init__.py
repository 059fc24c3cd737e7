"""Built-in targets, registered exactly like a third party's. Names come from the specs of each family."""

from edgec.hookspecs import hookimpl

RKNN = ("rk3588", "rk3576", "rk3568", "rk3566", "rk3562", "rk2118", "rv1103", "rv1103b", "rv1106", "rv1106b", "rv1126b")
CPUS = ("x86-64", "arm64")
LITERT = ("android", "raspberrypi4", "raspberrypi5")
MICRO = ("cortex-m", "cortex-m4", "cortex-m7", "cortex-m55", "stm32", "stm32h747", "esp32-s3")
ETHOS_U = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)

COREML = ("iphone", "iphone-ios18", "macos", "macos15")
JETSON = (
    "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-thor",
)  # fmt: skip

RTX = ("tensorrt-rtx", *(f"tensorrt-rtx-sm{sm}" for sm in (80, 86, 89, 120, 121)))


@hookimpl
def edgec_targets() -> dict[str, str]:
    return {
        **dict.fromkeys(RKNN, "edgec.targets.rknn.target:Rknn"),
        **dict.fromkeys(CPUS, "edgec.targets.onnxruntime.target:OnnxRuntime"),
        **dict.fromkeys(LITERT, "edgec.targets.tflite.target:Tflite"),
        **dict.fromkeys(MICRO, "edgec.targets.tflite.micro.target:TfliteMicro"),
        **dict.fromkeys(ETHOS_U, "edgec.targets.tflite.ethosu.target:EthosU"),
        **dict.fromkeys(JETSON, "edgec.targets.tensorrt.jetson.target:Jetson"),
        **dict.fromkeys(RTX, "edgec.targets.tensorrt.rtx.target:TensorRtRtx"),
        "tensorrt": "edgec.targets.tensorrt.local.target:TensorRt",
        **dict.fromkeys(COREML, "edgec.targets.coreml.target:CoreMl"),
    }


@hookimpl
def edgec_formats() -> dict[str, str]:
    return {
        ".tflite": "edgec.targets.tflite.format:TfliteFormat",
        ".rknn": "edgec.targets.rknn.format:RknnFormat",
        ".mlpackage": "edgec.targets.coreml.format:PackageFormat",
        ".plan": "edgec.targets.tensorrt.format:PlanFormat",
        ".engine": "edgec.targets.tensorrt.format:PlanFormat",
    }
