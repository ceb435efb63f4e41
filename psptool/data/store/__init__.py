"""The HDF5 file: written once, whole or not at all; opened as arrays."""
