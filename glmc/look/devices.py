"""The table of devices for ``glmc inspect --cost``: peak bandwidth and operation rates.

Figures are those of the source that is named, dense (without structured sparsity).
Nothing here was measured by us unless the source says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from glmc.ir.errors import UnknownDeviceError


@dataclass(frozen=True)
class Device:
    """A row of the table.

    bandwidth  10^9 bytes a second, of its memory
    flops      10^12 operations a second by dtype; empty where there is no figure, and
               then only bytes make a floor
    """

    name: str
    bandwidth: float
    flops: Mapping[str, float]
    source: str


def _gpu(name: str, bandwidth: float, half: float, single: float, src: str) -> Device:
    return Device(name, bandwidth, {"f16": half, "bf16": half, "f32": single}, src)


DEVICES: Mapping[str, Device] = {
    "a100": _gpu("A100 80GB SXM", 2039, 312, 19.5, "NVIDIA's data sheet"),
    "h100": _gpu("H100 SXM", 3350, 989, 67, "NVIDIA's data sheet"),
    "h200": _gpu("H200 SXM", 4800, 989, 67, "NVIDIA's data sheet"),
    "l4": _gpu("L4", 300, 121, 30.3, "NVIDIA's data sheet"),
    "4090": _gpu("RTX 4090", 1008, 165.2, 82.6, "NVIDIA's Ada whitepaper"),
    "mi300x": _gpu("MI300X", 5300, 1307.4, 163.4, "AMD's data sheet"),
    "cpu": Device(
        "2-core Zen 4",
        33,
        {},
        "sustained reads of two threads, measured on a shared machine; no figure for"
        " operations",
    ),
}


def device(name: str) -> Device:
    """Return a device by its short name.

    Raises:
        GlmcError: when there is none of that name.
    """
    if name not in DEVICES:
        known = ", ".join(DEVICES)
        raise UnknownDeviceError(f"--cost {name}: the devices are {known}.")
    return DEVICES[name]
