"""Operating-system images and signed update bundles (to come)."""
