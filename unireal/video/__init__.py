"""Videos: read from and written to files frame by frame, and made window by window."""
