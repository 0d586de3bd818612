"""The lines of Python that run an artifact anywhere that onnxruntime and numpy are."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from workers.runtimes.session import CPU, Array, Port

_HEAD = '''\
"""Run {file_name} on random input and print the shapes of its outputs.

Needs numpy and {package} (made with onnxruntime {version}).{measured} {options}
"""

import numpy as np
import onnxruntime as ort
'''

_BY_ANOTHER = """
It was measured with {runtime}, which these lines do not use: with onnxruntime its times are others, and what it
computes may differ a little."""
_OPTIONS = """The session options below are part of
the artifact: without them it may be {worse} than was measured."""

_SESSION = """\
options = ort.SessionOptions()
options.intra_op_num_threads = {threads}
{entries}session = ort.InferenceSession({model!r}, options, providers={providers!r})

rng = np.random.default_rng(0)
inputs = {{
{inputs}}}
for output, value in zip(session.get_outputs(), session.run(None, inputs)):
    print(output.name, np.shape(value))
"""


def snippet(
    file_name: str,
    main: str,
    *,
    feeds: Mapping[str, Array],
    inputs: Sequence[Port],
    session_options: Mapping[str, str],
    threads: int,
    version: str,
    measured_by: Mapping[str, Any],
) -> str:
    """Python source that runs an artifact from the folder it lies in.

    `main` is the model's file inside a `.zip`, and the file itself otherwise. `feeds` are one call's: the
    source makes arrays of the same shapes and dtypes, random where they are floats. `measured_by` is what the session
    that was timed said of itself; the source runs on its execution providers, if it was onnxruntime's, and else says
    that it is another runtime.
    """
    by_another = measured_by["runtime"] != "onnxruntime"
    providers = [CPU] if by_another else list(measured_by.get("providers", (CPU,)))
    named = " ".join(str(each) for each in (measured_by["runtime"], measured_by.get("version", "")) if each)
    beside = [provider for provider in providers if provider != CPU]
    lines = [
        _HEAD.format(
            file_name=file_name,
            package=f"an onnxruntime that has {' and '.join(beside)}" if beside else "onnxruntime",
            version=version,
            measured=_BY_ANOTHER.format(runtime=named) if by_another else "",
            options=_OPTIONS.format(worse="less accurate" if by_another else "slower or less accurate"),
        )
    ]
    model = main
    if file_name.endswith(".zip"):
        folder = PurePosixPath(file_name).stem
        lines[0] = lines[0].replace("import numpy", "import zipfile\n\nimport numpy")
        lines.append(f"\nwith zipfile.ZipFile({file_name!r}) as archive:\n    archive.extractall({folder!r})\n")
        model = f"{folder}/{main}"
    lines.append("\n")
    lines.append(
        _SESSION.format(
            threads=threads,
            entries="".join(
                f"options.add_session_config_entry({name!r}, {value!r})\n"
                for name, value in sorted(session_options.items())
            ),
            model=model,
            providers=providers,
            inputs="".join(f"    {port.name!r}: {_expression(port, feeds[port.name])},\n" for port in inputs),
        )
    )
    return "".join(lines)


def _expression(port: Port, values: Array) -> str:
    shape = tuple(int(size) for size in values.shape)
    if port.dtype == "string":
        return f'np.full({shape}, "text", dtype=object)'
    if values.dtype.kind == "f":
        return f'rng.standard_normal({shape}).astype("{values.dtype}")'
    # Ones where a zero would hide everything, as in an attention mask; zeros are valid ids anywhere.
    ones = values.dtype.kind == "b" or "mask" in port.name.lower()
    return f'np.{"ones" if ones else "zeros"}({shape}, dtype="{values.dtype}")'
