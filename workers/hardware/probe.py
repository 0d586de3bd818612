"""Describe this machine, so that every measurement can say where it was made.

Reads files only: it works in a confined child, where nothing can be started and nothing be connected to.
"""

import platform
import re
from pathlib import Path

from app.domain.target import CUDA, Fingerprint, fingerprint_id
from workers.hardware.caches import read_caches
from workers.hardware.cpu import Cpu, read_cpu
from workers.hardware.microarchitecture import microarchitecture
from workers.hardware.state import read_state
from workers.hardware.versions import RUNTIMES_BESIDE, WITH_CUDA, version_of

# Linux's drivers of what computes beside the processor.
_ACCELERATORS = {
    "nvidia": "NVIDIA GPU", "amdgpu": "AMD GPU", "i915": "Intel GPU", "xe": "Intel GPU",
    "intel_vpu": "Intel NPU", "amdxdna": "AMD NPU", "habanalabs": "Intel Gaudi", "neuron": "AWS Neuron",
}  # fmt: skip

# By what the firmware says of itself (DMI, sys_vendor and product_name).
_HYPERVISORS = (
    ("kvm", re.compile(r"kvm|qemu|google compute|amazon ec2|openstack|digitalocean|hetzner", re.IGNORECASE)),
    ("vmware", re.compile(r"vmware", re.IGNORECASE)),
    ("hyper-v", re.compile(r"microsoft corporation.*virtual machine", re.IGNORECASE)),
    ("virtualbox", re.compile(r"virtualbox|innotek", re.IGNORECASE)),
    ("xen", re.compile(r"xen", re.IGNORECASE)),
)


def probe(root: Path = Path("/")) -> Fingerprint:
    """Describe the machine; `root` is where its /proc and /sys are."""
    cpu = read_cpu(root)
    accelerators = _accelerators(root)
    features = cpu.features
    if any("nvidia" in each for each in accelerators) and any(map(version_of, WITH_CUDA)):
        features = tuple(sorted({*features, CUDA}))
    state = read_state(root)
    virtualization = _virtualization(root, cpu)
    return Fingerprint(
        id=fingerprint_id(
            architecture=cpu.architecture,
            model_name=cpu.model_name,
            vendor=cpu.vendor,
            features=features,
            cores=state.cores,
            memory_bytes=state.memory_bytes,
            virtualization=virtualization,
            runtime_versions={"onnxruntime": state.versions["onnxruntime"]},
        ),
        architecture=cpu.architecture,
        model_name=cpu.model_name,
        vendor=cpu.vendor,
        features=features,
        cores=state.cores,
        memory_bytes=state.memory_bytes,
        os=_os_name(root),
        kernel=platform.release(),
        virtualization=virtualization,
        boot_id=_first_line(root / "proc/sys/kernel/random/boot_id") or "unknown",
        versions=state.versions,
        runtimes=("onnxruntime", *(name for name in RUNTIMES_BESIDE if name in state.versions)),
        microarchitecture=microarchitecture(cpu),
        caches=read_caches(root),
        governor=state.governor,
        accelerators=accelerators,
    )


def _accelerators(root: Path) -> tuple[str, ...]:
    """Devices on the PCI bus that a driver of accelerators serves: vendor and device in hexadecimal, and the driver."""
    found = []
    for line in _lines(root / "proc/bus/pci/devices"):
        # Bus and function, vendor and device, the interrupt, seven addresses, seven sizes, the driver.
        words = line.split()
        if len(words) == 18 and words[-1] in _ACCELERATORS:
            found.append(f"{_ACCELERATORS[words[-1]]} (PCI {words[1][:4]}:{words[1][4:]}, driver {words[-1]})")
    return tuple(found)


def _virtualization(root: Path, cpu: Cpu) -> str:
    firmware = " ".join(
        _first_line(root / "sys/devices/virtual/dmi/id" / name) for name in ("sys_vendor", "product_name")
    )
    known = next((name for name, pattern in _HYPERVISORS if pattern.search(firmware)), None)
    hypervisor = _first_line(root / "sys/hypervisor/type")
    if known or hypervisor or cpu.virtual:
        return known or hypervisor or "vm"
    # Arm processors do not say whether they are virtual; without firmware to ask nobody knows.
    return "none" if firmware.strip() or cpu.architecture in ("x86_64", "AMD64") else "unknown"


def _os_name(root: Path) -> str:
    for line in _lines(root / "etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.removeprefix("PRETTY_NAME=").strip('"')
    return platform.system()


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
