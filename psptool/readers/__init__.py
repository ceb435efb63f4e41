"""Raw formats: one small class a format, each turning the bytes of one clip into a `RawClip` or a `RawFormatError`."""
