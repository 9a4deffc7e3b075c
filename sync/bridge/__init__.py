"""Bridges between two brokers."""
