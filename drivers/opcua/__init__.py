"""OPC UA servers as devices."""
