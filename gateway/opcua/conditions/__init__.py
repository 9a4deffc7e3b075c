"""Alarms and Conditions (OPC 10000-9) and other events."""
