"""Simulated devices: real protocols on real sockets, for the demonstration site and the tests."""
