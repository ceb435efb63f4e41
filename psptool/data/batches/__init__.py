"""Clips on the device as one ragged tensor; frames drawn and augmented as batched tensor work."""
