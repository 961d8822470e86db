"""Kernels for CPUs, called one by one."""
