"""How much an upload may ask of the machine while it is opened."""

from pydantic import BaseModel, ConfigDict, Field

_MIB = 1 << 20
_GIB = 1 << 30


class InputLimits(BaseModel):
    """Ceilings that keep a small upload from becoming a large load.

    They are checked against what was really read, never against what a header promises.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unpacked_bytes: int = Field(default=16 * _GIB, ge=1)
    """An archive's members, or a dataset's arrays, together."""
    ratio: float = Field(default=200.0, ge=1)
    """Unpacked bytes for each byte uploaded. Deflate reaches 1,000 on zeros, weights and pixels stay under 10."""
    ratio_from_bytes: int = Field(default=64 * _MIB, ge=0)
    """Below this, a high ratio harms nobody."""
    members: int = Field(default=10_000, ge=1)
    """Files in an archive that holds a model."""
    rows: int = Field(default=1_000_000, ge=1)
    """Pictures in a dataset."""
    row_bytes: int = Field(default=512 * _MIB, ge=1)
    """One row of a dataset, all its arrays together: the least that must be held in memory."""
    whole_array_bytes: int = Field(default=256 * _MIB, ge=1)
    """An array whose rows are not stored one after the other must be read whole."""
    image_bytes: int = Field(default=64 * _MIB, ge=1)
    """One picture as a file."""
    image_pixels: int = Field(default=64_000_000, ge=1)
    """One picture, decoded."""
    dense_bytes: int = Field(default=2 * _GIB, ge=1)
    """Sparse tensors of a model, written out with their zeros as a runtime does."""
    nodes: int = Field(default=200_000, ge=1)
    """Nodes of a model once every call of a local function is written out."""


def human_bytes(count: int) -> str:
    """A number of bytes for a person: `1.5 GiB`."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
