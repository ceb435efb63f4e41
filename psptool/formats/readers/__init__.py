"""Raw formats: a small class each, turning one clip's bytes into a `RawClip` or a `RawFormatError`."""
