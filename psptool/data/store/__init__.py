"""Prepared datasets: HDF5 files that are written atomically and read as arrays."""
