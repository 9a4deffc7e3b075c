"""MQTT devices: JSON, plain numbers, Sparkplug B."""
