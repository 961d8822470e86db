"""Predict what a GPU will do with a build's kernels, from their binaries."""
