"""What is known of a dataset: skeletons and facts, the HDF5 file, label splits, and batches on the device."""
