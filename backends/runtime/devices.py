"""The modules of a build that serve each kind of device.

The compiler writes this file for a build's target; as it stands here it is that of the
runtime by itself, whose models are given their operations.
"""

#: The target of the build: `glmc compile --target`.
TARGET = "none"

#: Kind of device, as torch calls it, to the module with its operations.
OPERATIONS: dict[str, str] = {}

#: Kind of device to the module that readies those and records steps; see
#: `modules.Machine`.
MACHINES: dict[str, str] = {}
