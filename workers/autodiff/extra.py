"""The `train` extra, which brings torch: without it some steps are absent."""

from importlib.util import find_spec

from app.domain.recovery import INSTALL
from app.errors import StepError


def has_torch() -> bool:
    """Whether torch can be imported, without importing it."""
    return find_spec("torch") is not None


def require_torch(step: str) -> None:
    """Raise StepError `needs_torch`, with the line to type, where torch is not installed."""
    if not has_torch():
        raise StepError(
            f"The step {step!r} computes gradients, and torch is not installed on this worker; "
            f"install it with: {INSTALL}",
            code="needs_torch",
        )
