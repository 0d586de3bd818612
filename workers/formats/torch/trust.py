"""Whether this process may load files of torch, which run code of their own as they are loaded.

The parent says so in the child's environment, as the deployment has set it: one place that no step can go around.
"""

import os

from app.domain.model import TORCH_TO_ONNX, Format
from app.errors import RejectedInput

VARIABLE = "BITPRESS_TRUST_TORCH_FILES"

NAMES: dict[Format, str] = {"pt2": "an exported program of torch (.pt2)", "torchscript": "a TorchScript file"}


def trusted() -> bool:
    """Whether the deployment trusts those who upload files of torch."""
    return os.environ.get(VARIABLE) == "1"


def require_trust(kind: Format) -> None:
    """Raise RejectedInput `torch_files_not_trusted` where the deployment does not."""
    if not trusted():
        raise RejectedInput(
            f"It is {NAMES[kind]}, which can run any code as it is loaded. It is taken only where the operator of this "
            f"service trusts whoever uploads and sets {VARIABLE}=true. Upload ONNX instead, which needs no trust: "
            f"{TORCH_TO_ONNX}.",
            code="torch_files_not_trusted",
        )
