"""The installation: threads, versions, paths."""
