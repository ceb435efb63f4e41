"""The prepared dataset: the HDF5 file, label splits, and batches on the device."""
