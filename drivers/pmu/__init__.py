"""IEEE C37.118 phasor measurement units."""
