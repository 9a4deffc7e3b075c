"""Towards the outside: frames, store, forwarder, MQTT."""
