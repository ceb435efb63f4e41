"""Utilities that all packages share: errors, atomic writing, paths, distributed training, machine information."""
