"""The store of frames: what waits for the links, on disk."""
