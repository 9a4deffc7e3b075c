"""Certificates and trust lists pushed by a certificate manager (OPC 10000-12, 7.10)."""
