"""The archive: measurements and events by point and time, beside the store of frames."""
