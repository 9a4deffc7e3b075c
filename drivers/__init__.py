"""How to speak to equipment: one file a protocol, and one line for it in drivers/registry.py."""
