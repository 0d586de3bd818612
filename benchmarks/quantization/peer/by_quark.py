"""AMD Quark's ONNX quantizer: its presets, with cross-layer equalization and AdaRound."""

from making import Rows, main
from quark.onnx import AdaRoundConfig, CLEConfig, ModelQuantizer, QConfig
from quark.onnx.quantization.config.spec import (
    CalibMethod,
    Int8Spec,
    QLayerConfig,
    QuantGranularity,
    UInt8Spec,
    XInt8Spec,
)

SPECS = {"int8": Int8Spec, "uint8": UInt8Spec, "xint8": XInt8Spec}


def static(
    model, feeds, out, activations="int8", weights="int8", method=None, per_channel=False, algorithms=(), **options
):
    def spec(of, **more):
        return SPECS[of](**({"calibration_method": CalibMethod[method]} if method else {}), **more)

    granularity = {"quant_granularity": QuantGranularity.Channel} if per_channel else {}
    chosen = {"CLE": CLEConfig, "AdaRound": lambda: AdaRoundConfig(learning_rate=0.1, num_iterations=1000)}
    config = QConfig(
        global_config=QLayerConfig(activation=spec(activations), weight=spec(weights, **granularity)),
        algo_config=[chosen[name]() for name in algorithms],
        extra_options=options,
    )
    ModelQuantizer(config).quantize_model(str(model), str(out), Rows(feeds))


# Those of the preset A8W8 in quark/onnx/quantization/config/custom_config.py.
A8W8 = {"ForceQuantizeNoInputCheck": True, "AlignSlice": False, "FoldRelu": True, "AlignConcat": True}
CONFIGURATIONS = {
    "A8W8": (static, A8W8),
    "A8W8, CLE": (static, {**A8W8, "algorithms": ["CLE"]}),
    "A8W8, CLE and AdaRound": (static, {**A8W8, "algorithms": ["CLE", "AdaRound"]}),
    "uint8 × int8 per channel, CLE": (
        static,
        {**A8W8, "activations": "uint8", "per_channel": True, "algorithms": ["CLE"]},
    ),
    "XINT8": (static, {"activations": "xint8", "weights": "xint8", "ForceQuantizeNoInputCheck": True}),
}

if __name__ == "__main__":
    main(["amd-quark", "onnx", "onnxruntime", "torch"], CONFIGURATIONS)
