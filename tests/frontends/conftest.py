"""Fixtures of this folder's tests."""

from __future__ import annotations

from support.loading import load, refusal

__all__ = ["load", "refusal"]
