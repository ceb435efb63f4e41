"""Readers of the raw formats: one small class per format, from the bytes of a clip to a `RawClip`."""
