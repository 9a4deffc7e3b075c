"""Modbus TCP and RTU: one file a concern; `tcp` and `rtu` are the drivers."""
