"""From an upload to the model file that can be opened: a plain file, or an archive of a set."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from app.errors import RejectedInput
from workers.formats.limits import InputLimits
from workers.formats.onnx.message import load_model
from workers.formats.onnx.weights import external_files
from workers.formats.torch.archive import check_torch, torch_kind
from workers.formats.unpacking import is_archive, unpack

# More models in one archive are a collection and no file set.
_MOST_MODELS = 16


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's main file and the files that came with it, relative to the main file's folder."""

    main: Path
    beside: tuple[str, ...] = ()


def open_model(path: Path, folder: Path, limits: InputLimits | None = None) -> ModelFiles:
    """Find the model in an upload; an archive is unpacked into `folder`, which must not exist yet.

    An archive of torch is a model itself. Raises RejectedInput `empty_file`, `archive_without_model`,
    `archive_several_models`, what `unpack` raises, what reading several models to tell them apart raises, and what
    `check_torch` raises.
    """
    if path.stat().st_size == 0:
        raise RejectedInput("The file is empty. Upload the whole model file.", code="empty_file")
    if not is_archive(path):
        return ModelFiles(path)
    limits = limits or InputLimits()
    if (kind := torch_kind(path)) is not None:
        check_torch(path, kind, limits)
        return ModelFiles(path)
    files = unpack(path, folder, limits)
    main = _main(folder, files)
    root = (folder / main).parent
    beside = (folder / name for name in files if name != main)
    return ModelFiles(
        folder / main, tuple(str(found.relative_to(root)) for found in beside if found.is_relative_to(root))
    )


def _main(folder: Path, files: Collection[str]) -> str:
    """The one .onnx file, or the one among several that the others are data of."""
    models = [name for name in files if name.lower().endswith(".onnx")]
    if not models:
        listed = ", ".join(repr(name) for name in sorted(files)[:5]) or "nothing"
        raise RejectedInput(
            f"The archive has no .onnx file in it, but {listed}. Pack the model's .onnx file with its data files.",
            code="archive_without_model",
        )
    if len(models) == 1:
        return models[0]
    mains = (
        [name for name in models if set(models) - {name} <= _data_of(folder, name)]
        if len(models) <= _MOST_MODELS
        else []
    )
    if len(mains) != 1:
        listed = ", ".join(map(repr, sorted(models)[:5]))
        raise RejectedInput(
            f"The archive has {len(models)} .onnx files ({listed}), and none that the others belong to. Upload each "
            "model on its own.",
            code="archive_several_models",
        )
    return mains[0]


def _data_of(folder: Path, name: str) -> set[str]:
    """Files in the archive that a model keeps its weights in; none where it is no model itself."""
    try:
        written = external_files(load_model(folder / name))
    except RejectedInput:
        return set()
    return {(PurePosixPath(name).parent / location).as_posix() for location in written}
