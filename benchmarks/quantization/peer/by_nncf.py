"""NNCF on its ONNX backend."""

import nncf
import onnx
import onnxruntime
from making import main
from onnx import version_converter


def fold(model, out):
    """BatchNormalization within convolutions, by onnxruntime's basic optimizations, as PyTorch's exporter does.

    Convolutions get a bias so: NNCF's bias correction corrects nothing else.
    """
    folded = out.with_name("folded.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(folded)
    folded.unlink()
    return loaded


def static(model, feeds, out, preset, model_type=None, fast_bias_correction=True, folded=False, overflow_fix=None):
    made = nncf.quantize(
        fold(model, out) if folded else onnx.load(model),
        nncf.Dataset(feeds),
        preset=nncf.QuantizationPreset[preset],
        model_type=nncf.ModelType[model_type] if model_type else None,
        subset_size=len(feeds),
        fast_bias_correction=fast_bias_correction,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix(overflow_fix) if overflow_fix else None
        ),
    )
    onnx.save(made, out)


def weights(model, feeds, out, mode, group_size, **options):
    """Every product in four bits, the head too, and nothing else, as the others' are.

    Opset 21, where NNCF 3.4 writes DequantizeLinear, which onnxruntime fuses to MatMulNBits: before that it writes
    MatMulNBits itself, with a byte a zero point where there have to be four bits, and onnxruntime refuses the model.
    A weight whose inputs a block does not divide gets the largest one that does.
    """
    prepared = version_converter.convert_version(onnx.load(model), 21)
    prepared.ir_version = max(prepared.ir_version, 10)
    made = nncf.compress_weights(
        prepared,
        mode=nncf.CompressWeightsMode[mode],
        group_size=group_size,
        all_layers=True,
        ignored_scope=nncf.IgnoredScope(types=["Gather"], validate=False),
        dataset=nncf.Dataset(feeds),
        subset_size=len(feeds),
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
        **options,
    )
    onnx.save(made, out, save_as_external_data=made.ByteSize() > 1 << 30)


FOLDED = {"preset": "MIXED", "fast_bias_correction": False, "folded": True}
TRANSFORMER = {"preset": "MIXED", "model_type": "TRANSFORMER"}
CONFIGURATIONS = {
    "int8, defaults": (static, {"preset": "PERFORMANCE"}),
    "int8, folded, mixed, full bias correction": (static, FOLDED),
    "int8, folded, mixed, full bias correction, overflow fix": (static, {**FOLDED, "overflow_fix": "enable"}),
    "int8, transformer": (static, TRANSFORMER),
    "int8, transformer, full bias correction": (static, {**TRANSFORMER, "fast_bias_correction": False}),
}
for _block in (64, 128):
    for _mode in ("INT4_SYM", "INT4_ASYM"):
        CONFIGURATIONS[f"4 bits, {_mode}, awq and scale estimation, block {_block} where it divides"] = (
            weights,
            {"mode": _mode, "group_size": _block, "awq": True, "scale_estimation": True},
        )

if __name__ == "__main__":
    main(["nncf", "onnx", "onnxruntime"], CONFIGURATIONS)
