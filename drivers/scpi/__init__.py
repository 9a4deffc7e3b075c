"""SCPI over a socket and over VISA."""
