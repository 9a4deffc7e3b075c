"""The runtime: polling, scan, commands, journal, the field and link processes, command line."""
