"""Raw recordings: readers of files, and synthetic recordings."""
