"""Which versions of what computes are installed, as packages tell: nothing is imported."""

import platform
from importlib.metadata import PackageNotFoundError, version

ONNXRUNTIME = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-migraphx",
    "onnxruntime-rocm", "onnxruntime-qnn", "ort-nightly", "ort-nightly-gpu",
)  # fmt: skip
"""Distributions that bring the module `onnxruntime`; which providers it has differs."""
WITH_CUDA = ("onnxruntime-gpu", "ort-nightly-gpu")
"""Those of them that have CUDA."""

FURTHER = {"openvino": "openvino", "litert": "ai-edge-litert", "torch": "torch"}
"""What a worker may have besides, and the distribution of each."""

RUNTIMES_BESIDE = ("openvino", "litert")
"""Those of them that run models."""

_NEEDED = {"numpy": "numpy", "onnx": "onnx", "bitpress": "bitpress-service"}


def installed_versions() -> dict[str, str]:
    """Versions by name: of Python, of what every worker needs ("unknown" where it cannot be told), of what is there
    besides. A distribution of onnxruntime with a name of its own is listed under that too."""
    found = {"python": platform.python_version()}
    found |= {name: version_of(distribution) or "unknown" for name, distribution in _NEEDED.items()}
    runtimes = {name: known for name in ONNXRUNTIME if (known := version_of(name)) is not None}
    found["onnxruntime"] = next(iter(runtimes.values()), "unknown")
    found |= runtimes
    return found | {name: known for name, distribution in FURTHER.items() if (known := version_of(distribution))}


def version_of(distribution: str) -> str | None:
    """A distribution's version; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
