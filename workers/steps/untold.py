"""Inputs whose types and shapes a model file does not tell, as TorchScript: the data do, or the shapes of a job."""

from collections.abc import Mapping, Sequence

import numpy as np

from app.domain.model import UNKNOWN, TensorSpec
from app.errors import StepError
from workers.runtimes.session import Port, Session

_TRIED = ("float32", "int64")
"""Types of made-up values, in turn, where the job names shapes alone."""


def told_by_data(inputs: Sequence[Port], fields: Mapping[str, TensorSpec]) -> tuple[Port, ...]:
    """Inputs with the type and the shape that the rows of a dataset have, where the file tells neither."""
    return tuple(
        Port(port.name, fields[port.name].dtype, (None, *(fields[port.name].shape or ())))
        if port.dtype == UNKNOWN and port.name in fields
        else port
        for port in inputs
    )


def told_by_shapes(session: Session, shapes: Mapping[str, Sequence[int]]) -> tuple[Port, ...]:
    """Inputs with the shapes that a job names, where the file tells neither those nor types.

    The types are the first that the model takes: floats, then whole numbers, for all of them alike. Raises StepError
    `shapes_missing`, or `model_does_not_run` where it takes neither.
    """
    untold = [port for port in session.inputs if port.dtype == UNKNOWN]
    if missing := [port.name for port in untold if port.name not in shapes]:
        raise StepError(
            f"The model's file does not say which shapes {', '.join(missing)} may have: give measure.shapes, or data.",
            code="shapes_missing",
        )
    if not untold:
        return session.inputs
    refused: list[StepError] = []
    for dtype in _TRIED:
        ports = tuple(
            Port(port.name, dtype, (None, *shapes[port.name][1:])) if port in untold else port
            for port in session.inputs
        )
        try:
            session.run({port.name: np.zeros(tuple(shapes[port.name]), port.dtype) for port in ports})
        except StepError as error:
            refused.append(error)
        else:
            return ports
    raise refused[0]
