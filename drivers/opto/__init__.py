"""Opto 22 controllers over OptoMMP."""
