"""What a frame looks like at a broker: Gatepost, JSON, Sparkplug B."""
