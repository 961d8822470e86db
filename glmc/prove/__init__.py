"""Proof and blame: a build beside its checkpoint and what was published."""
