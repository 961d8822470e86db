"""The table of devices for ``glmc inspect --cost``: peak bandwidth and operation rates.

Figures are those of the source that is named, dense (without structured sparsity).
Nothing here was measured by us unless the source says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from glmc.backends.triton.paper.predict import Cores
from glmc.ir.errors import UnknownDeviceError


@dataclass(frozen=True)
class Device:
    """A row of the table.

    bandwidth  10^9 bytes a second, of its memory
    flops      10^12 operations a second by dtype; empty where there is no figure, and
               then only bytes make a floor
    cores      of a GPU whose kernels can be looked at on paper
    link       10^9 bytes a second that it can send to others of its machine; 0 where
               there is no figure
    """

    name: str
    bandwidth: float
    flops: Mapping[str, float]
    source: str
    cores: Cores | None = None
    link: float = 0.0


MACHINE = 8
"""Devices that are in one machine."""
NETWORK = 50.0
"""10^9 bytes a second that each of them can send to another machine: an adapter of
400 Gb/s for each, as NVIDIA's data sheet of the DGX H100 has it."""


def _gpu(
    name: str,
    bandwidth: float,
    half: float,
    single: float,
    src: str,
    cores: Cores | None = None,
    *,
    link: float,
) -> Device:
    rates = {"f16": half, "bf16": half, "f32": single}
    return Device(name, bandwidth, rates, src, cores, link)


# The latency of a load while all cores read is an assumption: 700 to 900 ns are
# reported for Hopper, and the longest is taken, which asks most of a kernel. Ampere's
# and Blackwell's are guesses from it.
_A100 = Cores("cuda:80", 108, 1.41, 700)
_H100 = Cores("cuda:90", 132, 1.98, 900)
_B200 = Cores("cuda:100", 148, 1.965, 1000)


# Links are of NVLink, PCIe 4 and Infinity Fabric, in one direction: half of the figure
# that data sheets give for both.
DEVICES: Mapping[str, Device] = {
    "a100": _gpu(
        "A100 80GB SXM", 2039, 312, 19.5, "NVIDIA's data sheet", _A100, link=300
    ),
    "h100": _gpu("H100 SXM", 3350, 989, 67, "NVIDIA's data sheet", _H100, link=450),
    "h200": _gpu("H200 SXM", 4800, 989, 67, "NVIDIA's data sheet", _H100, link=450),
    "b200": _gpu("B200", 8000, 2250, 80, "NVIDIA's data sheet", _B200, link=900),
    "l4": _gpu("L4", 300, 121, 30.3, "NVIDIA's data sheet", link=32),
    "4090": _gpu("RTX 4090", 1008, 165.2, 82.6, "NVIDIA's Ada whitepaper", link=32),
    "mi300x": _gpu("MI300X", 5300, 1307.4, 163.4, "AMD's data sheet", link=448),
    "cpu": Device(
        "2-core Zen 4",
        33,
        {},
        "sustained reads of two threads, measured on a shared machine; no figure for"
        " operations",
    ),
}


def device(name: str, option: str = "--cost") -> Device:
    """Return a device by its short name; ``option`` is what named it.

    Raises:
        GlmcError: when there is none of that name.
    """
    if name not in DEVICES:
        known = ", ".join(DEVICES)
        raise UnknownDeviceError(f"{option} {name}: the devices are {known}.")
    return DEVICES[name]
