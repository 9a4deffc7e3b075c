"""Signed commands and schedules from outside, up to the field process."""
