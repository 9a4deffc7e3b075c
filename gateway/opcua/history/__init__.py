"""HistoryRead (OPC 10000-11, 10000-13)."""
