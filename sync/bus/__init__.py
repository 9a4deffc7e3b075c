"""The seed's site bus, ``Relay/*``."""
