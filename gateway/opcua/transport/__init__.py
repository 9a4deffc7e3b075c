"""Connections, channels, sessions: who talks to the server, and how much."""
