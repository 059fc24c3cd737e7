"""esp-ppq, or ppq where that is what is installed: per channel, exported as Q/DQ. Options platform=..., equalize=1."""

import harness  # isort: skip  (starts the clock)

from importlib import import_module
from importlib.util import find_spec

import torch

PPQ = "esp_ppq" if find_spec("esp_ppq") else "ppq"
ppq, api = import_module(PPQ), import_module(f"{PPQ}.api")


def quantize(job: harness.Job) -> None:
    name = job.input_name
    samples = [torch.from_numpy(feeds[name]) for feeds in job.feeds()]
    setting = ppq.QuantizationSettingFactory.default_setting()
    setting.equalization = job.options.get("equalize") == "1"
    graph = api.quantize_onnx_model(
        onnx_import_file=str(job.source),
        calib_dataloader=samples,
        calib_steps=len(samples),
        input_shape=list(samples[0].shape),
        setting=setting,
        platform=ppq.TargetPlatform[job.options.get("platform", "ONNXRUNTIME")],
        device="cpu",
    )
    api.export_ppq_graph(graph, platform=ppq.TargetPlatform.ONNXRUNTIME, graph_save_to=str(job.out))


harness.work(quantize, (PPQ.replace("_", "-"), "onnx", "onnxruntime", "torch"))
