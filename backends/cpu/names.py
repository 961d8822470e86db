"""Names that a build has for its C++."""

NATIVE = "native"
"""The folder of a build with its C++, and with libraries of it."""
