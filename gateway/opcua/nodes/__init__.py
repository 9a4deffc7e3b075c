"""The address space, built from the site."""
