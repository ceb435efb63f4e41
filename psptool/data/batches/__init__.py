"""Clips on the device as one ragged tensor, and batches from it: frame sampling, streams, augmentation."""
