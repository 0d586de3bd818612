"""Tell what a file is by its first bytes; names and suffixes are only claims."""

from pathlib import Path

from app.domain.model import Format
from workers.formats.torch.archive import torch_format

HEAD_BYTES = 512

# (offset, bytes, name). Sources: each format's specification.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK\x06\x06", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (257, b"ustar", "tar"),
    (0, b"PAR1", "parquet"),
    (0, b"PARE", "encrypted parquet"),
    (0, b"\x93NUMPY", "npy"),
    (4, b"TFL3", "tflite"),
    (4, b"ORTM", "ort"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"GGUF", "gguf"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!", "rar"),
    (0, b"version https://git-lfs", "git-lfs pointer"),
    (0, b"\x89PNG", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"ARROW1", "arrow"),
    (0, b"%PDF", "pdf"),
    (0, b"\x80\x02", "pickle"),
    (0, b"\x80\x03", "pickle"),
    (0, b"\x80\x04", "pickle"),
    (0, b"\x80\x05", "pickle"),
)


def file_head(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def signature(head: bytes) -> str | None:
    """The name of the format that a file begins like, or None."""
    for offset, magic, name in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return name
    # safetensors: eight bytes of header length, then JSON.
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    text = head.lstrip()[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "html"
    if text.startswith((b"{", b"[")):
        return "json"
    return None


def model_format(path: Path) -> Format:
    """The format of a model file by its content; what is none is ONNX, whose reader says what is wrong with it."""
    found = signature(file_head(path)) if path.is_file() else None
    if found == "zip":
        return torch_format(path) or "onnx"
    return "tflite" if found == "tflite" else "onnx"


_INSTEAD = {
    "zip": "It is a ZIP archive",
    "npy": "It is a single NumPy array",
    "tflite": "It is a TFLite model, which can be measured but not optimized: upload the ONNX export",
    "ort": "It is in onnxruntime's own ORT format: upload the .onnx file that it was made from",
    "hdf5": "It is an HDF5 file (Keras?): export the model with tf2onnx",
    "gguf": "It is a GGUF file: export the model to ONNX",
    "safetensors": "It holds weights without a graph (safetensors): export the model to ONNX",
    "pickle": "It is a Python pickle (an old PyTorch checkpoint?), which could run code: export with torch.onnx.export",
    "git-lfs pointer": "It is a Git LFS pointer, not the file itself: run `git lfs pull` and upload again",
    "html": "It is a web page, probably an error or login page saved in place of the file: download it again",
    "json": "It is JSON",
    "encrypted parquet": "It is an encrypted Parquet file: upload it decrypted",
}


def instead(head: bytes) -> str:
    """A sentence about what a file is when it is not what was expected, or nothing where that is unknown."""
    found = signature(head)
    if found is None:
        return ""
    return _INSTEAD.get(found, f"It looks like {found}") + ". "
