"""A machine described from its /proc and /sys: this one, and some that were written down."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from app.domain.target import CUDA, Fingerprint, Peak, Peaks, Provider, Tried
from workers.hardware.allowance import usable_cores, usable_memory
from workers.hardware.cpu import parse_cpuinfo, read_cpu
from workers.hardware.probe import probe
from workers.hardware.state import read_state
from workers.hardware.versions import installed_versions
from workers.steps.probe import ProbeRequest, run

XEON = """processor\t: {index}
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_1 avx f16c avx2 fma avx512f avx512_vnni amx_int8 amx_tile avx_vnni hypervisor
"""

NEOVERSE = """processor\t: {index}
BogoMIPS\t: 2100.00
Features\t: fp asimd aes crc32 atomics fphp asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""

MEMINFO = "MemTotal:       16384000 kB\nMemFree:        1 kB\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def cores(template: str, count: int = 2) -> str:
    return "\n".join(template.format(index=index) for index in range(count))


def test_this_machine() -> None:
    found = probe()
    assert found == probe()
    assert found.architecture == platform.machine()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 64 << 20 < found.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found.versions["onnxruntime"] == onnxruntime.__version__
    assert found.versions["python"] == platform.python_version()
    others = {"openvino": "openvino", "litert": "ai_edge_litert", "torch": "torch"}
    assert {*others} & {*found.versions} == {name for name, module in others.items() if find_spec(module) is not None}
    assert found.runtimes == ("onnxruntime", *(name for name in ("openvino", "litert") if name in found.versions))
    assert list(found.features) == sorted(found.features)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the kernel has no /proc/cpuinfo")
def test_features_are_the_kernel_s() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    assert all(f" {feature}" in flags for feature in probe().features if feature != CUDA)


def test_an_x86_server() -> None:
    found = parse_cpuinfo(cores(XEON), "x86_64")
    assert found.vendor == "GenuineIntel"
    assert found.model_name == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert {"avx512_vnni", "amx_int8", "fma"} <= set(found.features)
    assert "fpu" not in found.features
    assert found.virtual


def test_an_arm_server() -> None:
    found = parse_cpuinfo(cores(NEOVERSE), "aarch64")
    assert (found.vendor, found.model_name) == ("ARM", "Neoverse V1")
    assert found.features == ("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve")


def test_only_what_every_core_has_is_a_feature() -> None:
    little = NEOVERSE.replace(" i8mm", "").replace("0xd40", "0xd05")
    assert "i8mm" not in parse_cpuinfo(cores(NEOVERSE) + "\n" + cores(little), "aarch64").features


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense", "processor : 0\n\nflags :\n"])
def test_a_description_that_says_nothing(text: str) -> None:
    found = parse_cpuinfo(text, "riscv64")
    assert (found.model_name, found.vendor, found.features) == ("unknown", "unknown", ())


def test_a_system_without_proc_is_asked_otherwise(tmp_path: Path) -> None:
    assert read_cpu(tmp_path).architecture == platform.machine()


UNLIMITED_V1 = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n",
    "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize(
    ("files", "memory", "quota"),
    [
        ({"proc/meminfo": MEMINFO}, 16_384_000 * 1024, None),
        (UNLIMITED_V1, 16_384_000 * 1024, None),
        (UNLIMITED_V1 | {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1073741824\n"}, 1 << 30, None),
        (UNLIMITED_V1 | {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n"}, 16_384_000 * 1024, 1),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
                "sys/fs/cgroup/pod/memory.max": "2147483648\n",
                "sys/fs/cgroup/pod/box/cpu.max": "100000 100000\n",
            },
            2 << 30,
            1,
        ),
        (
            {  # in a container, where the path is the host's and the mount is the group
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/../../system.slice/box\n",
                "sys/fs/cgroup/memory.max": "536870912\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
            },
            512 << 20,
            None,
        ),
    ],
)
def test_quotas_of_control_groups(files: dict[str, str], memory: int, quota: int | None, tmp_path: Path) -> None:
    root = machine(tmp_path, files)
    assert usable_memory(root) == memory
    assert usable_cores(root) == (quota or len(os.sched_getaffinity(0)))


def test_affinity_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from workers.hardware.allowance import usable_cores; print(usable_cores())"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"sys/devices/virtual/dmi/id/product_name": "Google Compute Engine\n"}, "kvm"),
        ({"sys/devices/virtual/dmi/id/sys_vendor": "QEMU\n"}, "kvm"),
        ({"sys/hypervisor/type": "xen\n"}, "xen"),
        ({"proc/cpuinfo": cores(XEON)}, "vm"),
        (
            {
                "proc/cpuinfo": cores(XEON).replace("hypervisor", ""),
                "sys/devices/virtual/dmi/id/sys_vendor": "Dell Inc.",
            },
            "none",
        ),
    ],
)
def test_virtualization(files: dict[str, str], name: str, tmp_path: Path) -> None:
    plain = {"proc/cpuinfo": cores(XEON).replace("hypervisor", ""), "proc/meminfo": MEMINFO}
    assert probe(machine(tmp_path, plain | files)).virtualization == name


def test_the_id_outlives_a_restart_and_tells_machines_apart(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": cores(XEON), "proc/meminfo": MEMINFO, "proc/sys/kernel/random/boot_id": "one\n"}
    first = probe(machine(tmp_path / "a", files))
    again = {"proc/sys/kernel/random/boot_id": "two\n", "proc/meminfo": MEMINFO.replace("16384000", "16383120")}
    second = probe(machine(tmp_path / "b", files | again))
    other = probe(machine(tmp_path / "c", files | {"proc/cpuinfo": cores(XEON).replace(" avx512_vnni", "")}))
    assert (first.boot_id, second.boot_id) == ("one", "two")
    assert first.id == second.id
    assert first.id != other.id
    assert len(first.id) == 16


def packages(folder: Path, **versions: str) -> Path:
    """A folder in which these packages are installed, as far as their metadata tell."""
    for name, version in versions.items():
        place = folder / f"{name}-{version}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    return folder


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"onnxruntime": "1.32.0"}, {"onnxruntime": "1.32.0"}),
        ({"onnxruntime_gpu": "1.31.0"}, {"onnxruntime": "1.31.0", "onnxruntime-gpu": "1.31.0"}),
        ({"onnxruntime_openvino": "1.24.1"}, {"onnxruntime": "1.24.1", "onnxruntime-openvino": "1.24.1"}),
        ({}, {"onnxruntime": "unknown"}),
    ],
)
def test_onnxruntime_goes_by_several_names(there: dict[str, str], found: dict[str, str], tmp_path: Path) -> None:
    """With another version the machine has another name, whatever the package is called."""
    code = (
        "import sys, json; sys.path[:] = [entry for entry in sys.path if 'site-packages' not in entry] + sys.argv[1:]\n"
        "from workers.hardware.versions import installed_versions; print(json.dumps(installed_versions()))"
    )
    command = [sys.executable, "-S", "-c", code, str(packages(tmp_path, **there))]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    versions = json.loads(run.stdout)
    assert {name: each for name, each in versions.items() if name.startswith("onnxruntime")} == found


def test_the_state_is_the_fingerprint_s_and_tells_what_changed(tmp_path: Path) -> None:
    found, state = probe(), read_state()
    assert (state.cores, state.memory_bytes, state.governor) == (found.cores, found.memory_bytes, found.governor)
    assert state.versions == found.versions
    group = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}
    governed = {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n"}
    limited = read_state(machine(tmp_path, group | governed))
    assert (limited.cores, limited.governor) == (1, "powersave")
    assert "governor was None and is powersave" in replace(state, governor=None).told_apart(limited)
    newer = replace(limited, versions=limited.versions | {"openvino": "1"})
    assert newer != limited
    assert limited.told_apart(newer) == f"openvino was {limited.versions.get('openvino')} and is 1"


PCI = (
    "0000\t80860d57\t0\t" + "\t".join(["0"] * 14) + "\t\n"
    "0008\t1af41045\t0\t" + "\t".join(["0"] * 14) + "\tvirtio-pci\n"
    "0100\t10de1eb8\t1f\t" + "\t".join(["f000000c"] * 14) + "\tnvidia\n"
)


def test_accelerators_and_governor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "proc/cpuinfo": cores(XEON),
        "proc/meminfo": MEMINFO,
        "proc/bus/pci/devices": PCI,
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    }
    root = machine(tmp_path, files)
    found = probe(root)
    assert found.accelerators == ("NVIDIA GPU (PCI 10de:1eb8, driver nvidia)",)
    assert found.governor == "powersave"
    assert found.microarchitecture is not None
    assert CUDA not in found.features, "this onnxruntime has no CUDA"
    monkeypatch.setattr("workers.hardware.probe.WITH_CUDA", ("onnxruntime",))
    with_cuda = probe(root)
    assert CUDA in with_cuda.features
    assert with_cuda.id != found.id
    assert CUDA not in probe(machine(tmp_path, {"proc/bus/pci/devices": PCI.replace("nvidia", "vfio-pci")})).features


def tried(machine: Fingerprint, spread: float = 0.01) -> Tried:
    peak = Peak(resource="fp32", value=1.5, unit="GFLOP/s", threads=1, method="invented", spread=spread)
    peaks = Peaks(measured=(peak,), seconds=1)
    update = {"peaks": peaks, "providers": (Provider(name="x", loads=True),), "installed": ()}
    return Tried.of(machine.model_copy(update=update))


def asked(tmp_path: Path, **request: Any) -> Fingerprint:
    return run(ProbeRequest(**request), tmp_path, tmp_path, lambda share, message: None)


def test_what_was_measured_is_no_part_of_the_id_and_comes_back_as_it_was(tmp_path: Path) -> None:
    described = asked(tmp_path)
    assert (described.peaks, described.providers, described.installed) == (None, None, None)
    known = tried(described)
    found = asked(tmp_path, known=Tried.model_validate_json(known.model_dump_json()), measure=True)
    assert found == known.added_to(described)
    assert found.id == described.id
    assert Tried.of(found) == known


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "0" * 16},
        {"boot_id": "another"},
        {"kernel": "0.1"},
        {"versions": {"onnxruntime": "0.1"}},
        {"versions": installed_versions() | {"openvino": "0.1"}},
        {"versions": installed_versions() | {"litert": "0.1"}},
        {"governor": "another"},
    ],
)
def test_what_was_measured_of_another_machine_is_not_believed(changes: dict[str, Any], tmp_path: Path) -> None:
    described = asked(tmp_path)
    assert asked(tmp_path, known=tried(described).model_copy(update=changes)) == described


def test_what_others_disturbed_is_measured_again(tmp_path: Path) -> None:
    described = asked(tmp_path)
    shaky = tried(described, spread=0.5)
    assert asked(tmp_path, known=shaky) == shaky.added_to(described), "better than nothing, where nothing is measured"
    found = asked(tmp_path, known=shaky, measure=True)
    assert found.peaks is not None
    assert {peak.method for peak in found.peaks.measured}.isdisjoint({"invented"})
    assert {provider.name for provider in found.providers or ()} == set(onnxruntime.get_available_providers())
    assert found.installed is not None
    assert found.model_copy(update={"peaks": None, "providers": None, "installed": None}) == described


def test_a_fingerprint_of_an_earlier_version_is_read() -> None:
    old = {
        "id": "0123456789abcdef", "architecture": "x86_64", "model_name": "x", "vendor": "y", "features": ["avx2"],
        "cores": 2, "memory_bytes": 1, "os": "o", "kernel": "k", "virtualization": "none", "boot_id": "b",
        "versions": {"onnxruntime": "1.32.0"}, "runtimes": ["onnxruntime"],
    }  # fmt: skip
    found = Fingerprint.model_validate(old)
    assert (found.peaks, found.microarchitecture, found.caches) == (None, None, ())


def test_nothing_heavy_is_loaded_and_nothing_started() -> None:
    code = (
        "import os, sys\n"
        "def forbidden(event, arguments):\n"
        "    if event in ('subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'socket.connect'):\n"
        "        os._exit(3)\n"
        "sys.addaudithook(forbidden)\n"
        "from pathlib import Path\n"
        "from workers.steps.probe import ProbeRequest, run\n"
        "run(ProbeRequest(), Path(), Path(), print)\n"
        "print({'numpy', 'onnx', 'onnxruntime', 'cpuinfo', 'pyarrow'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "set()"
