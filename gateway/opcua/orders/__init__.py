"""Writes and methods, which become commands."""
