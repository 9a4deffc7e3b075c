"""Operating-system images and signed update bundles (to come; see docs/roadmap in README)."""
