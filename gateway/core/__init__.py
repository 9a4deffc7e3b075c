"""The ground everyone may stand on: clock, records, point table, paths. Imports config only."""
