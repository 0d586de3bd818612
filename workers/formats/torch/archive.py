"""Tell torch's ZIP archives from others by their members, and look into one before torch does.

Sources: torch 2.13, torch/export/pt2_archive/constants.py for exported programs; the members that `torch.jit.save` and
`torch.save` write. Each archive has all of its members in one folder, whose name means nothing.
"""

import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from app.domain.model import TORCH_TO_ONNX, Format
from app.errors import RejectedInput
from workers.formats.archives import CHUNK, Meter, damaged, unsafe
from workers.formats.limits import InputLimits, human_bytes
from workers.formats.torch.pickles import Unfit, check_pickle, check_saved
from workers.formats.torch.trust import require_trust
from workers.formats.zip_members import DAMAGE, forbidden, open_zip

Kind = Literal["pt2", "old pt2", "torchscript", "pickle"]

_FORMATS: dict[Kind, Format] = {"pt2": "pt2", "torchscript": "torchscript"}

_CONFIGS = {"data/weights/": "_weights_config.json", "data/constants/": "_constants_config.json"}
_COMPILED = "data/aotinductor/"
_OBJECTS = ("custom_obj_", "opaque_obj_")

_MOST_JSON_BYTES = 512 << 20

# Bytes of an element by torch._export.serde.schema.ScalarType of torch 2.13; of types that are not named, four.
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 5: 8, 6: 2, 8: 8, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2, 35: 8}
_OTHER_BYTES = 4


def torch_kind(path: Path) -> Kind | None:
    """What of torch a ZIP archive is; None for every other file, and for what cannot be read."""
    try:
        with open_zip(path) as archive:
            names = set(archive.namelist())
    except (RejectedInput, OSError):
        return None
    inner = _inner(names)
    if any(name.lower().endswith(".onnx") for name in names):
        return None
    if "archive_format" in inner:
        return "pt2"
    if "serialized_exported_program.json" in names:
        return "old pt2"
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    return "pickle" if "data.pkl" in inner else None


def member_names(path: Path) -> set[str]:
    """What an archive of torch has in its one folder."""
    with open_zip(path) as archive:
        return _inner(archive.namelist())


def _inner(names: Iterable[str]) -> set[str]:
    return {name.partition("/")[2] for name in names}


def torch_format(path: Path) -> Format | None:
    """The format of a model file of torch that may be loaded; None for every other file."""
    kind = torch_kind(path)
    return _FORMATS.get(kind) if kind is not None else None


def check_torch(path: Path, kind: Kind, limits: InputLimits) -> None:
    """Refuse an archive of torch that may not be loaded, or not by this process, before torch sees it.

    Raises RejectedInput `pickled_model`, `torch_files_not_trusted`, `invalid_model`, `unsafe_pickle`,
    `archive_several_models`, `model_needs_too_much_memory`, `archive_unsafe`, `archive_too_large` or `truncated`.
    """
    if kind == "pickle":
        raise RejectedInput(
            "It is a file of torch.save: a Python pickle of weights or of a module, which could run code as it is read "
            f"and is never unpickled here. Load it where it was made and export the model: {TORCH_TO_ONNX}.",
            code="pickled_model",
        )
    if kind == "old pt2":
        raise RejectedInput(
            "It is an exported program in the format that torch had before 2.8. Load and save it again with torch 2.13 "
            f"(torch.export.load, torch.export.save), or export the model to ONNX: {TORCH_TO_ONNX}.",
            code="invalid_model",
        )
    require_trust(_FORMATS[kind])
    with open_zip(path) as archive:
        members = _members(archive, path, limits)
        if kind == "pt2":
            _check_program(archive, members, limits)


def _members(archive: zipfile.ZipFile, path: Path, limits: InputLimits) -> dict[str, zipfile.ZipInfo]:
    """Members by their name in the one folder that there is, which together unpack to no more than is taken."""
    meter = Meter(path.stat().st_size, limits)
    found: dict[str, zipfile.ZipInfo] = {}
    folders = set[str]()
    for info in archive.infolist():
        folder, _, name = info.filename.partition("/")
        if (why := forbidden(info)) is not None:
            raise unsafe(f"The archive's member {info.filename[:200]!r} is {why}.")
        if name in found:
            raise unsafe(f"The archive has two members called {name[:200]!r}.")
        folders.add(folder)
        found[name] = info
        if len(found) > limits.members:
            raise RejectedInput(
                f"The archive has more than {limits.members} members, the most that are taken.",
                code="archive_too_large",
            )
        if info.compress_type == zipfile.ZIP_STORED:
            # These stand side by side in the file, so that they cannot be more than it is.
            if info.file_size != info.compress_size:
                raise damaged()
            meter.add(info.file_size)
        else:
            _unpack(archive, info, meter)
    if len(folders) > 1:
        raise unsafe("The archive has members in several folders, which torch does not write.")
    return found


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> None:
    """Count what really comes out of a member."""
    try:
        with archive.open(info) as stream:
            while block := stream.read(CHUNK):
                meter.add(len(block))
    except (*DAMAGE, NotImplementedError, RuntimeError) as error:
        raise damaged() from error


def _check_program(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], limits: InputLimits) -> None:
    if any(name.startswith(_COMPILED) for name in members):
        raise RejectedInput(
            "The archive has a compiled library in it (AOTInductor), which is code for one machine. Save the exported "
            "program itself: torch.export.save(torch.export.export(model, (example,)), path).",
            code="invalid_model",
        )
    programs = [name for name in members if name.startswith("models/")]
    if len(programs) != 1 or not programs[0].endswith(".json"):
        raise RejectedInput(
            f"The archive has {len(programs)} exported programs, and one is taken. Save each on its own with "
            "torch.export.save.",
            code="archive_several_models",
        )
    for folder, ending in _CONFIGS.items():
        for name in (name for name in members if name.startswith(folder) and name.endswith(ending)):
            for payload in _payloads(_json(archive, members[name])):
                _check_payload(archive, members, folder, payload, limits)
    for name, info in members.items():
        if name.endswith(".pt"):
            _check_pickled(archive, name, info)


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    if info.file_size > _MOST_JSON_BYTES:
        raise RejectedInput("The exported program is larger than any that is taken.", code="model_too_complex")
    try:
        return json.loads(archive.read(info))
    except (*DAMAGE, RecursionError) as error:
        raise _invalid(f"{info.filename.partition('/')[2][:100]!r} is no JSON") from error


def _payloads(document: Any) -> Iterator[dict[str, Any]]:
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict) or not all(isinstance(payload, dict) for payload in config.values()):
        raise _invalid("what it says of its weights cannot be read")
    yield from config.values()


def _check_payload(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    folder: str,
    payload: dict[str, Any],
    limits: InputLimits,
) -> None:
    name = str(payload.get("path_name"))
    info = members.get(folder + name)
    if info is None:
        raise _invalid(f"the weight {name[:100]!r} is missing")
    if name.startswith(_OBJECTS):
        raise RejectedInput(
            "The program holds objects of Python or C++ besides tensors, which would be unpickled. Export a model of "
            f"tensors alone, or export it to ONNX: {TORCH_TO_ONNX}.",
            code="unsafe_pickle",
        )
    if payload.get("use_pickle"):
        _check_pickled(archive, name, info)
        return
    meta = payload.get("tensor_meta")
    if not isinstance(meta, dict):
        raise _invalid(f"the weight {name[:100]!r} has no type")
    # An empty record stands for zeros of any size, and strides of nothing repeat what is there.
    sizes = [size.get("as_int") if isinstance(size, dict) else None for size in meta.get("sizes") or ()]
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise _invalid(f"the weight {name[:100]!r} has no fixed size")
    item = _ITEM_BYTES.get(meta.get("dtype"), _OTHER_BYTES)  # type: ignore[arg-type]
    wanted = math.prod(size for size in sizes if size is not None) * item
    if wanted > max(limits.dense_bytes, info.file_size):
        raise RejectedInput(
            f"The weight {name[:100]!r} alone needs {human_bytes(wanted)} and the file has "
            f"{human_bytes(info.file_size)} of it.",
            code="model_needs_too_much_memory",
        )


def _check_pickled(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> None:
    """A record that torch would unpickle may rebuild tensors and nothing else."""
    try:
        with archive.open(info) as stream:
            if stream.read(4) == b"PK\x03\x04":
                stream.seek(0)
                check_saved(stream)
            elif info.file_size:
                stream.seek(0)
                check_pickle(stream)
    except Unfit as error:
        raise RejectedInput(
            f"The program has a pickle in it ({name[:100]}) that does more than rebuild tensors: {error}. Export with "
            "example inputs that are plain tensors and with plain weights, or set program.example_inputs = None before "
            "torch.export.save.",
            code="unsafe_pickle",
        ) from error
    except (*DAMAGE, NotImplementedError, RuntimeError) as error:
        raise damaged() from error


def _invalid(why: str) -> RejectedInput:
    return RejectedInput(
        f"It is an exported program of torch that is damaged or was not written by torch.export.save: {why}. Save it "
        "again with torch 2.13.",
        code="invalid_model",
    )
