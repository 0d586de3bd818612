"""Small real models of torch, made here, and files of them."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray[Any, np.dtype[Any]]

WIDTH, CLASSES, WORDS = 4, 3, 50


class Dense(nn.Module):
    """`x` (batch, 4) → (batch, 3), which sum to one."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.linear = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.linear(x), 1)


class Picture(nn.Module):
    """`image` (batch, 3, 8, 8) → (batch, 10), by way of a convolution and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)  # type: ignore[no-any-return]


class Layers(nn.Module):
    """`x` (batch, 4) → (batch, 3), by two layers of one kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.one, self.two = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """`x` → twice of it where its sum is positive, else thrice of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,)) * 1.0  # type: ignore[no-any-return]


class Words(nn.Module):
    """`ids` (batch, length) of whole numbers and `weights` (batch, length) → a dictionary of `logits` and `mean`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        found = (self.table(ids) * weights.unsqueeze(-1)).mean(1)
        return {"mean": found, "logits": self.head(found)}


class Nested(nn.Module):
    """A dictionary of `a` and `b`, a number that stays, and `shift` by name → their sum, and nothing, and a pair."""

    def forward(
        self, pair: dict[str, torch.Tensor], times: int, *, shift: torch.Tensor
    ) -> tuple[torch.Tensor, None, tuple[torch.Tensor, torch.Tensor]]:
        total = pair["a"] * times + pair["b"] + shift
        return total, None, (pair["a"] + 1, pair["b"] - shift)


class TwoOutputs(nn.Module):
    """`x` → twice and thrice of it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x * 3


class Writer(nn.Module):
    """Adds one to what it is given, in place, and hands it back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x


class Counter(nn.Module):
    """Counts its calls, and hands the count itself out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls.add_(1)
        return x * 2, self.calls


class Scaled(nn.Module):
    """`x` times a number that has a default."""

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return x * scale


class Lists(nn.Module):
    """Takes what no dataset holds."""

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(xs)


class Huge(nn.Module):
    """Asks for a pebibyte."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1 << 48) + x.sum()


class Endless(nn.Module):
    """Never returns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() == x.sum()):
            x = x + 0
        return x


class EndlessLoad(nn.Module):
    """Never ends being loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.training = state[1]
        x = state[0]
        while bool(x.sum() == 0):
            x = x + 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Reads(nn.Module):
    """Adds what a file has in it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file(self.path, False, 16, dtype=torch.uint8).sum()


class ReadsAsLoaded(nn.Module):
    """Keeps what a file has in it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = torch.from_file(state[0], False, 16, dtype=torch.uint8).sum().item() == 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Writes(nn.Module):
    """Leaves what it is given in a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x


def example(module: nn.Module, rows: int = 2) -> tuple[torch.Tensor, ...]:
    """Inputs of a module of this file."""
    generator = torch.Generator().manual_seed(rows)
    if isinstance(module, Picture):
        return (torch.randn(rows, 3, 8, 8, generator=generator),)
    if isinstance(module, Words):
        return torch.randint(0, WORDS, (rows, 5), generator=generator), torch.rand(rows, 5, generator=generator)
    return (torch.randn(rows, WIDTH, generator=generator),)


def exported(module: nn.Module, *, dynamic: bool = True, most: int | None = None, **options: Any) -> bytes:
    """A `.pt2` of a module, whose first axes are one symbol unless it is not dynamic."""
    given = example(module)
    batch = torch.export.Dim("batch") if most is None else torch.export.Dim("batch", max=most)
    shapes = tuple({0: batch} for _ in given) if dynamic else None
    file = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), given, dynamic_shapes=shapes, **options), file)
    return file.getvalue()


def scripted(module: nn.Module, *, training: bool = False) -> bytes:
    """TorchScript of a module's code."""
    return _saved(torch.jit.script(module.train(training)))


def traced(module: nn.Module) -> bytes:
    """TorchScript of what a module did with an example."""
    return _saved(torch.jit.trace(module.eval(), example(module)))


def _saved(module: Any) -> bytes:
    file = io.BytesIO()
    torch.jit.save(module, file)
    return file.getvalue()


def pickled(found: object) -> bytes:
    """What `torch.save` makes of an object."""
    file = io.BytesIO()
    torch.save(found, file)
    return file.getvalue()


class Act:
    """Unpickled, writes a file: whoever finds it knows that the pickle was run."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return eval, (f"open({str(self._canary)!r}, 'w').close()",)


def reading_script(path: str, *, as_loaded: bool = False) -> bytes:
    """TorchScript that reads a file of the machine when it is run, or as it is loaded."""
    return scripted(ReadsAsLoaded(path) if as_loaded else Reads(path))


def writing_script(path: str) -> bytes:
    """TorchScript that writes a file when it is run."""
    return scripted(Writes(path))


def rewritten(content: bytes, change: Callable[[str, bytes], bytes | None], *, packed: bool = False) -> bytes:
    """The same archive with the content of members changed (`None`: left out), by their name below the one folder."""
    made = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(made, "w", method) as after:
        for info in before.infolist():
            found = change(info.filename.partition("/")[2], before.read(info))
            if found is not None:
                after.writestr(info.filename, found)
    return made.getvalue()


def with_member(content: bytes, name: str, data: bytes) -> bytes:
    """The same archive with one more member."""
    made = io.BytesIO(content)
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", data)
    return made.getvalue()


def plain_pickle(found: object) -> bytes:
    return pickle.dumps(found, protocol=2)


def save(content: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
