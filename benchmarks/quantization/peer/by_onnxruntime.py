"""onnxruntime's own quantizers, as its documentation has them used: pre-processed models, QDQ form."""

import onnx
from making import Rows, main
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization import matmul_nbits_quantizer as nbits
from onnxruntime.quantization.shape_inference import quant_pre_process

TYPES = {"s8": QuantType.QInt8, "u8": QuantType.QUInt8}


def prepare(model, out):
    """As its documentation advises; where symbolic shapes cannot be inferred, without them, as it says then."""
    prepared = out.with_name("prepared.onnx")
    try:
        quant_pre_process(model, prepared)
    except Exception as error:
        print(f"quant_pre_process: {error}; again with skip_symbolic_shape")
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
    return prepared


def static(model, feeds, out, activations="s8", weights="s8", method="MinMax", **options):
    prepared = prepare(model, out)
    quantize_static(
        prepared,
        out,
        Rows(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=TYPES[activations],
        weight_type=TYPES[weights],
        calibrate_method=CalibrationMethod[method],
        **options,
    )
    prepared.unlink()


def dynamic(model, feeds, out, weights="s8", **options):
    prepared = prepare(model, out)
    quantize_dynamic(prepared, out, weight_type=TYPES[weights], **options)
    prepared.unlink()


def weight_only(model, feeds, out, algorithm, block, symmetric=True, level=4, **options):
    """Four bits. GPTQ's and HQQ's own `block_size` is that of their iterations and of the blocks, respectively."""
    config = {
        "default": lambda: None,
        "RTN": nbits.RTNWeightOnlyQuantConfig,
        "k-quant": nbits.KQuantWeightOnlyQuantConfig,
        "HQQ": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=block),
        "GPTQ": lambda: nbits.GPTQWeightOnlyQuantConfig(calibration_data_reader=Rows(feeds), block_size=128, **options),
    }[algorithm]()
    quantizer = nbits.MatMulNBitsQuantizer(
        onnx.load(model), block_size=block, is_symmetric=symmetric, accuracy_level=level, algo_config=config
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(out), False)


CONFIGURATIONS = {
    "static, defaults (S8S8)": (static, {}),
    "static, U8S8 per channel": (static, {"activations": "u8", "per_channel": True}),
    "static, U8S8 per channel, percentile": (
        static,
        {"activations": "u8", "per_channel": True, "method": "Percentile"},
    ),
    "static, U8S8 per channel, entropy": (static, {"activations": "u8", "per_channel": True, "method": "Entropy"}),
    "static, U8S8 per channel, reduce_range": (
        static,
        {"activations": "u8", "per_channel": True, "reduce_range": True},
    ),
    "static, U8U8 per channel": (static, {"activations": "u8", "weights": "u8", "per_channel": True}),
    "dynamic, defaults": (dynamic, {}),
    "dynamic, per channel, reduce_range": (dynamic, {"per_channel": True, "reduce_range": True}),
}
for _block in (64, 128):
    CONFIGURATIONS[f"4 bits, HQQ, block {_block}"] = (weight_only, {"algorithm": "HQQ", "block": _block})
    for _symmetric in (True, False):
        _kind = "symmetric" if _symmetric else "asymmetric"
        for _algorithm in ("default", "RTN", "k-quant", "GPTQ"):
            CONFIGURATIONS[f"4 bits, {_algorithm}, {_kind}, block {_block}"] = (
                weight_only,
                {"algorithm": _algorithm, "block": _block, "symmetric": _symmetric},
            )
        CONFIGURATIONS[f"4 bits, GPTQ with actorder and mse, {_kind}, block {_block}"] = (
            weight_only,
            {"algorithm": "GPTQ", "block": _block, "symmetric": _symmetric, "actorder": True, "mse": True},
        )

if __name__ == "__main__":
    main(["onnxruntime", "onnx"], CONFIGURATIONS)
