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
    """Four bits. GPTQ's and HQQ's own `block_size` is that of their iterations and of the blocks, respectively.

    GPTQ is given its defaults, for no setting of onnxruntime 1.32 betters it. In quantization/neural_compressor/
    weight_only.py, lines 727 and 733 take the part of an upper triangular factor that is below its diagonal, so nothing
    of an error reaches the weights that come after it: the result is RTN's, whatever `percdamp`, `block_size` and the
    calibration rows are. Line 892 then rounds it once more; asymmetric that changes nothing, symmetric the second grid
    is 16/15 or 14/15 of the first one, which is why it falls behind RTN. `mse` compares codes with weights (line 669),
    `actorder` forms its blocks in another order than line 892 does, and `perchannel=False` has one scale for all
    columns. Asymmetric, a weight of an odd number of blocks cannot be packed (line 123), nor can RTN's and k-quant's.
    """
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

if __name__ == "__main__":
    main(["onnxruntime", "onnx"], CONFIGURATIONS)
