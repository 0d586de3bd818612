"""NNCF on its ONNX backend."""

import nncf
import onnx
from making import main


def static(model, feeds, out, preset, model_type=None, fast_bias_correction=True):
    made = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(feeds),
        preset=nncf.QuantizationPreset[preset],
        model_type=nncf.ModelType[model_type] if model_type else None,
        subset_size=len(feeds),
        fast_bias_correction=fast_bias_correction,
    )
    onnx.save(made, out)


def weights(model, feeds, out, mode, group_size, **options):
    """Every product in four bits, the head too, as the others' are."""
    made = nncf.compress_weights(
        onnx.load(model),
        mode=nncf.CompressWeightsMode[mode],
        group_size=group_size,
        dataset=nncf.Dataset(feeds),
        subset_size=len(feeds),
        **options,
    )
    onnx.save(made, out, save_as_external_data=made.ByteSize() > 1 << 30)


TRANSFORMER = {"preset": "MIXED", "model_type": "TRANSFORMER"}
CONFIGURATIONS = {
    "int8, defaults": (static, {"preset": "PERFORMANCE"}),
    "int8, mixed, full bias correction": (static, {"preset": "MIXED", "fast_bias_correction": False}),
    "int8, transformer": (static, TRANSFORMER),
    "int8, transformer, full bias correction": (static, {**TRANSFORMER, "fast_bias_correction": False}),
}
for _block in (64, 128):
    for _mode in ("INT4_SYM", "INT4_ASYM"):
        _base = {"mode": _mode, "group_size": _block}
        CONFIGURATIONS[f"4 bits, {_mode}, block {_block}"] = (weights, _base)
        CONFIGURATIONS[f"4 bits, {_mode}, awq and scale estimation, block {_block}"] = (
            weights,
            {**_base, "awq": True, "scale_estimation": True},
        )

if __name__ == "__main__":
    main(["nncf", "onnx", "onnxruntime"], CONFIGURATIONS)
