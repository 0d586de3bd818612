"""Look through a pickle without running it: whether it names anything but what rebuilds tensors.

Such pickles are written in protocol 2, in which everything that is called stands by its full name in the stream.
Source: Lib/pickletools.py of CPython for the opcodes, torch/_utils.py of torch 2.13 for the names.
"""

import pickletools
import zipfile
from typing import IO

_STORAGES = (
    "BFloat16", "Bool", "Byte", "Char", "ComplexDouble", "ComplexFloat", "Double", "Float", "Half", "Int", "Long",
    "Short",
)  # fmt: skip
_ALLOWED = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v2",
        "torch.storage UntypedStorage",
        *(f"torch {name}Storage" for name in _STORAGES),
    }
)

# Whatever calls or makes something that the stream does not name in plain words.
_HIDDEN = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})

_DATA = "data.pkl"


class Unfit(ValueError):
    """A pickle that could do more than rebuild tensors, with the reason."""


def check_pickle(stream: IO[bytes]) -> None:
    """Raise Unfit for a pickle that names, or hides, anything else. `stream` stands at its beginning."""
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in _HIDDEN:
                raise Unfit("it makes objects that it does not name (torch writes protocol 2)")
            if opcode.name == "GLOBAL" and argument not in _ALLOWED:
                raise Unfit(f"it uses {str(argument)[:100].replace(' ', '.')}")
    except Unfit:
        raise
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeError, EOFError) as error:
        raise Unfit("it cannot be read") from error


def check_saved(stream: IO[bytes]) -> None:
    """The same for what `torch.save` wrote, an archive with the pickle in it."""
    try:
        with zipfile.ZipFile(stream) as archive:
            # Stored, these are no more than the archive around them, whose size was looked at.
            if any(
                info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size
                for info in archive.infolist()
            ):
                raise Unfit("it was packed again")
            inside = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == _DATA]
            if len(inside) != 1 or any(info.filename.endswith("constants.pkl") for info in archive.infolist()):
                raise Unfit("it is no file of torch.save")
            with archive.open(inside[0]) as data:
                check_pickle(data)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise Unfit("it cannot be read") from error
