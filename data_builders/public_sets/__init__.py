"""Readers of public data sets as they lie on disk after a download; READERS (registry.py) lists them."""
