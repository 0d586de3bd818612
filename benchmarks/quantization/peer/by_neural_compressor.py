"""Intel Neural Compressor's ONNX package: static quantization with and without SmoothQuant.

Its `reduce_range` is not set, for onnx-neural-compressor 1.0 leaves it out where it makes its quantizer (quantization/
algorithm_entry.py, line 147): weights have all 8 bits, which saturate on a processor without VNNI.
"""

from making import Rows, main
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

TYPES = {"s8": QuantType.QInt8, "u8": QuantType.QUInt8}


def static(model, feeds, out, weights="s8", **options):
    quantize(
        str(model),
        str(out),
        config.StaticQuantConfig(
            calibration_data_reader=Rows(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=TYPES[weights],
            per_channel=True,
            calibration_sampling_size=len(feeds),
            extra_options=options,
        ),
    )


CONFIGURATIONS = {
    "static, U8S8 per channel": (static, {}),
    "static, U8U8 per channel": (static, {"weights": "u8"}),
    "SmoothQuant, U8S8 per channel": (static, {"SmoothQuant": True}),
}

if __name__ == "__main__":
    main(["onnx-neural-compressor", "onnx", "onnxruntime"], CONFIGURATIONS)
