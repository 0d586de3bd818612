"""Read a model's files, and nothing outside their folder."""

from pathlib import Path, PurePosixPath

import onnx
from onnx import ModelProto, external_data_helper

from app.errors import RejectedInput, StepError
from workers.formats.onnx.graph import all_sparse_tensors
from workers.formats.onnx.weights import check_external_data, external_files


def read(path: Path, *, weights: bool = True) -> tuple[ModelProto, bool]:
    """A model, with the tensors it keeps in other files unless `weights` is false; and whether there are such.

    A location that leaves the folder, climbs out over a link, or ends too early is refused before anything is read, so
    that tensors which are mapped later, one by one, are as safe as those read here. Raises StepError
    `external_data_outside`, `external_data_missing` or `external_data_truncated`.
    """
    model = onnx.load(path, load_external_data=False)
    external = external_files(model)
    if not external:
        return model, False
    here = {PurePosixPath(name).as_posix() for name in external if (path.parent / name).is_file()}
    try:
        check_external_data(model, path.parent, here)
    except RejectedInput as error:
        raise StepError(error.detail, code=error.code) from error
    if weights:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    for sparse in all_sparse_tensors(model):  # which are written out in any case, and which onnx forgets
        if external_data_helper.uses_external_data(sparse.values):
            external_data_helper.load_external_data_for_tensor(sparse.values, str(path.parent))
            sparse.values.ClearField("external_data")
            sparse.values.ClearField("data_location")
    return model, True
