"""Recovery steps as the catalogue shows them: what each does, and where it cannot be taken."""

from collections.abc import Mapping
from typing import Any

from app.domain.recipe import RecoveryStep

INSTALL = "pip install 'bitpress-service[train]'"

SUMMARIES: Mapping[RecoveryStep, str] = {
    "bias_correction": "Shift each bias by the mean error that its layer's rounded weights make.",
    "equalization": "Even out the ranges of channels between two layers with only a rectifier between them.",
    "smoothquant": "Move what is hard about an activation into the weights that read it, or keep it in float.",
    "clip_search": "Give up the ends of a channel's weights where finer steps for the rest are worth more.",
    "full_range": "Give weights their eighth bit back where 16-bit sums hardly saturate for it, by emulation.",
    "range_tuning": "Fit the scales of activations and weights to the original's outputs by gradients.",
    "learned_rounding": "Find by gradients, block by block, which way each weight is rounded.",
}
"""Every step and what it does."""

NEEDS_TORCH: frozenset[RecoveryStep] = frozenset({"range_tuning", "learned_rounding"})
"""Steps that compute gradients."""


def recovery_catalogue(fingerprints: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Describe each step; `absent_on` names those of the targets, each with its fingerprint, that cannot take it."""
    without_torch = sorted(
        target for target, fingerprint in fingerprints.items() if "torch" not in fingerprint.get("versions", {})
    )
    reason = f"PyTorch is not installed in this target's workers; install it there with: {INSTALL}"
    return [
        {
            "id": step,
            "summary": summary,
            "needs": ["torch"] if step in NEEDS_TORCH else [],
            "absent_on": [
                {"target": target, "reason": reason} for target in (without_torch if step in NEEDS_TORCH else [])
            ],
        }
        for step, summary in SUMMARIES.items()
    ]
