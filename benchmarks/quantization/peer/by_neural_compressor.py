"""Intel Neural Compressor's ONNX package: static quantization with and without SmoothQuant."""

from making import Rows, main
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize


def static(model, feeds, out, reduce_range=True, **options):
    quantize(
        str(model),
        str(out),
        config.StaticQuantConfig(
            calibration_data_reader=Rows(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            calibration_sampling_size=len(feeds),
            extra_options=options,
        ),
    )


CONFIGURATIONS = {
    "static, U8S8 per channel, reduce_range": (static, {}),
    "SmoothQuant, U8S8 per channel, reduce_range": (static, {"SmoothQuant": True}),
}

if __name__ == "__main__":
    main(["onnx-neural-compressor", "onnx", "onnxruntime"], CONFIGURATIONS)
