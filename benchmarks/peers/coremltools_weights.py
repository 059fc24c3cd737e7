"""coremltools.optimize on a float16 package: its own weight compression.  Runs in the coremltools environment.

    python coremltools_weights.py IN.mlpackage OUT.mlpackage FORM

FORM: int8 (a channel), int4 (blocks of 32), palette4 (k-means, a table a tensor), palette4-groups (k-means, 16 channels a table),
sparse (half of the weights). The last line of stdout is JSON: {"seconds": ...}.
"""

import json
import logging
import sys
import time
import warnings


def main() -> None:
    source, out, form = sys.argv[1:]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(source, skip_model_load=True)
    start = time.perf_counter()
    if form == "int8":
        config = cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel")
        made = cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))
    elif form == "int4":
        config = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32
        )
        made = cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))
    elif form == "palette4":
        config = cto.OpPalettizerConfig(mode="kmeans", nbits=4)
        made = cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))
    elif form == "palette4-groups":
        config = cto.OpPalettizerConfig(
            mode="kmeans", nbits=4, granularity="per_grouped_channel", group_size=16, channel_axis=0
        )
        made = cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))
    elif form == "sparse":
        made = cto.prune_weights(
            model, cto.OptimizationConfig(global_config=cto.OpMagnitudePrunerConfig(target_sparsity=0.5))
        )
    else:
        raise SystemExit(f"no form {form}")
    seconds = time.perf_counter() - start
    made.save(out)
    print(json.dumps({"seconds": seconds}))


main()
