"""Archives that strangers packed: what is taken, and everything that is not."""

import gzip
import io
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import RejectedInput
from tests.parts import models
from tests.unit.formats.rejections import rejected
from workers.formats.limits import InputLimits
from workers.formats.model_files import open_model
from workers.formats.onnx.inspection import inspect_onnx
from workers.formats.unpacking import unpack

MODEL = models.gemm().SerializeToString()


def packed_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def packed_tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def packed_tar_gz(path: Path, members: Mapping[str, bytes]) -> Path:
    return packed_tar(path, members, "w:gz")


PACKERS = pytest.mark.parametrize("pack", [packed_zip, packed_tar, packed_tar_gz], ids=["zip", "tar", "tar.gz"])
Pack = Callable[[Path, Mapping[str, bytes]], Path]


def unpacked(path: Path, tmp_path: Path, **limits: float) -> tuple[str, ...]:
    return unpack(path, tmp_path / "out", InputLimits.model_validate(limits))


@PACKERS
def test_plain_files_come_out_as_they_went_in(pack: Pack, tmp_path: Path) -> None:
    members = {"model.onnx": MODEL, "data/weights.bin": os.urandom(3_000_000), "empty": b""}
    assert set(unpacked(pack(tmp_path / "set", members), tmp_path)) == set(members)
    for name, content in members.items():
        path = tmp_path / "out" / name
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@PACKERS
@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "a/../../model.onnx", "/etc/model.onnx", "C:\\model.onnx", "a\\model.onnx", "n" * 300,
     "a/" * 40 + "m", "line\nbreak"],
)  # fmt: skip
def test_names_that_are_not_plain(pack: Pack, name: str, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    path = pack(tmp_path / "set", {"model.onnx": MODEL, name: b"x"})
    with rejected("archive_unsafe"):
        unpacked(path, tmp_path)
    left = {path for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts}
    assert left - before == {path}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["model.onnx", "./model.onnx", "model.onnx/inside"])
def test_two_members_of_one_name(second: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("model.onnx", MODEL)
        archive.writestr(second, b"x")
    with rejected("archive_unsafe", "'model.onnx'"):
        unpacked(tmp_path / "zip", tmp_path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_members_of_a_tar_that_are_no_files(kind: bytes, words: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as archive:
        info = tarfile.TarInfo("model.onnx")
        info.type, info.linkname = kind, "/etc/hostname"
        archive.addfile(info)
    with rejected("archive_unsafe", words):
        unpacked(tmp_path / "tar", tmp_path)


@pytest.mark.parametrize(
    ("mode", "words"),
    [(stat.S_IFLNK | 0o777, "a link"), (stat.S_IFCHR | 0o600, "a device"), (stat.S_IFIFO, "a device")],
)
def test_members_of_a_zip_that_are_no_files(mode: int, words: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        info = zipfile.ZipInfo("model.onnx")
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/hostname")
    with rejected("archive_unsafe", words):
        unpacked(tmp_path / "zip", tmp_path)


def test_an_encrypted_member(tmp_path: Path) -> None:
    content = bytearray(packed_zip(tmp_path / "zip", {"model.onnx": MODEL}).read_bytes())
    content[6] |= 1  # in the local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    (tmp_path / "zip").write_bytes(content)
    with rejected("archive_unsafe", "encrypted"):
        unpacked(tmp_path / "zip", tmp_path)


def test_a_compression_that_needs_memory_of_its_own(tmp_path: Path) -> None:
    path = packed_zip(tmp_path / "zip", {"model.onnx": MODEL}, zipfile.ZIP_LZMA)
    with rejected("archive_unsafe", "deflate"):
        unpacked(path, tmp_path)


# Bombs


def test_a_zip_bomb_by_ratio(tmp_path: Path) -> None:
    path = packed_zip(tmp_path / "zip", {"model.onnx": bytes(70 << 20)})
    assert path.stat().st_size < 100_000
    with rejected("archive_too_large", "200 times"):
        unpacked(path, tmp_path)


@PACKERS
def test_more_than_is_taken(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path / "set", {"model.onnx": MODEL, "weights.bin": os.urandom(3 << 20)})
    with rejected("archive_too_large", "2.0 MiB"):
        unpacked(path, tmp_path, unpacked_bytes=2 << 20)
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= 2 << 20


def test_sizes_in_headers_are_not_believed(tmp_path: Path) -> None:
    """A member that claims 10 bytes gives no more, and one that claims fewer than it has is damaged."""
    path = packed_zip(tmp_path / "zip", {"model.onnx": bytes(5 << 20)})
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, 22, 10)
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 24, 10)
    path.write_bytes(content)
    with rejected("truncated"):
        unpacked(path, tmp_path)
    assert (tmp_path / "out" / "model.onnx").stat().st_size <= 10


@PACKERS
def test_more_members_than_are_taken(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path / "set", {f"file-{index}": b"" for index in range(30)})
    with rejected("archive_too_large", "20 members"):
        unpacked(path, tmp_path, members=20)


def test_a_directory_that_would_fill_the_memory(tmp_path: Path) -> None:
    content = bytearray(packed_zip(tmp_path / "zip", {"model.onnx": MODEL}).read_bytes())
    at = content.index(b"PK\x05\x06")
    struct.pack_into("<L", content, at + 12, 1 << 31)
    (tmp_path / "zip").write_bytes(content)
    with rejected("archive_too_large", "members"):
        unpacked(tmp_path / "zip", tmp_path)


def test_a_64_bit_directory_that_would_fill_the_memory(tmp_path: Path) -> None:
    content = packed_zip(tmp_path / "zip", {"model.onnx": MODEL}).read_bytes()
    at = content.index(b"PK\x05\x06")
    end64 = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    (tmp_path / "zip").write_bytes(content[:at] + end64 + locator + content[at:])
    with rejected("archive_too_large", "members"):
        unpacked(tmp_path / "zip", tmp_path)


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    path = packed_zip(tmp_path / "zip", {"a.onnx": MODEL, "b.onnx": MODEL})
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    struct.pack_into("<L", content, second + 42, 0)  # both start at the first one's header
    path.write_bytes(content)
    with rejected("archive_unsafe", "overlaps"):
        unpacked(path, tmp_path)


def test_headers_of_a_tar_that_would_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    stream = gzip.GzipFile(tmp_path / "tar.gz", "wb", compresslevel=1)
    with stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    with rejected("archive_too_large", "headers"):
        unpacked(tmp_path / "tar.gz", tmp_path)


# Damage


@PACKERS
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8])
def test_an_archive_that_was_cut_off(pack: Pack, kept: float, tmp_path: Path) -> None:
    path = pack(tmp_path / "set", {"model.onnx": MODEL + os.urandom(50_000)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with rejected("truncated", "cut off"):
        unpacked(path, tmp_path)


def test_a_checksum_that_does_not_agree(tmp_path: Path) -> None:
    path = packed_zip(tmp_path / "zip", {"model.onnx": MODEL}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(MODEL) + 20] ^= 1
    path.write_bytes(content)
    with rejected("truncated"):
        unpacked(path, tmp_path)


SEEDS: list[bytes] = []
with tempfile.TemporaryDirectory() as _folder:
    for _pack in (packed_zip, packed_tar, packed_tar_gz):
        SEEDS.append(_pack(Path(_folder) / "set", {"model.onnx": MODEL[:200], "a/b": b"xyz"}).read_bytes())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_altered_archives_raise_nothing_but_rejections(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        path.write_bytes(content)
        with suppress(RejectedInput):
            unpack(path, Path(folder) / "out", InputLimits())
        assert set(os.listdir(folder)) <= {"set", "out"}


# Which of the files is the model


@PACKERS
def test_a_file_set_with_its_external_data(pack: Pack, tmp_path: Path) -> None:
    models.save(models.mlp(), tmp_path / "made" / "net.onnx", external=True)
    members = {f"export/{path.name}": path.read_bytes() for path in (tmp_path / "made").iterdir()}
    files = open_model(pack(tmp_path / "set", members | {"README.md": b"hello"}), tmp_path / "files")
    found = inspect_onnx(files.main, beside=files.beside)
    assert files.main == tmp_path / "files" / "export" / "net.onnx"
    assert found.files == ("net.onnx", "weights.bin")
    assert found.external_data


def test_a_plain_model_is_left_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    files = open_model(path, tmp_path / "files")
    assert (files.main, files.beside) == (path, ())
    assert not (tmp_path / "files").exists()


@PACKERS
def test_an_archive_without_a_model(pack: Pack, tmp_path: Path) -> None:
    with rejected("archive_without_model", "'weights.pt'"):
        open_model(pack(tmp_path / "set", {"weights.pt": b"x"}), tmp_path / "files")


def test_several_models(tmp_path: Path) -> None:
    path = packed_zip(tmp_path / "zip", {"a.onnx": MODEL, "b.onnx": MODEL})
    with rejected("archive_several_models", "'a.onnx'", "'b.onnx'"):
        open_model(path, tmp_path / "files")


def test_one_model_that_the_others_belong_to(tmp_path: Path) -> None:
    models.save(models.mlp(), tmp_path / "made" / "net.onnx", external=True)
    main = (tmp_path / "made" / "net.onnx").read_bytes().replace(b"weights.bin", b"weight.onnx")
    data = (tmp_path / "made" / "weights.bin").read_bytes()
    files = open_model(packed_zip(tmp_path / "zip", {"weight.onnx": data, "net.onnx": main}), tmp_path / "files")
    assert files.main.name == "net.onnx"
    assert inspect_onnx(files.main, beside=files.beside).files == ("net.onnx", "weight.onnx")


def test_what_macos_adds_is_passed_over(tmp_path: Path) -> None:
    members = {"net.onnx": MODEL, "__MACOSX/._net.onnx": b"\0\5\x16\7", "._net.onnx": b"x", ".DS_Store": b"x"}
    files = open_model(packed_zip(tmp_path / "zip", members), tmp_path / "files")
    assert (files.main.name, files.beside) == ("net.onnx", ())


def test_data_of_a_sibling_folder_are_not_the_model_s(tmp_path: Path) -> None:
    models.save(models.mlp(), tmp_path / "made" / "net.onnx", external=True)
    members = {
        "model/net.onnx": (tmp_path / "made" / "net.onnx").read_bytes(),
        "weights.bin": (tmp_path / "made" / "weights.bin").read_bytes(),
    }
    files = open_model(packed_zip(tmp_path / "zip", members), tmp_path / "files")
    with rejected("external_data_missing", "'weights.bin'"):
        inspect_onnx(files.main, beside=files.beside)


def test_a_gzipped_model_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.gz").write_bytes(gzip.compress(MODEL))
    with rejected("not_onnx", "gzipped"):
        open_model(tmp_path / "model.onnx.gz", tmp_path / "files")


def test_an_empty_upload(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with rejected("empty_file"):
        open_model(tmp_path / "model.onnx", tmp_path / "files")
