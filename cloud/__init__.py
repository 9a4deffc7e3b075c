"""The far side: broker, ingest, historian. Shares config, gateway.core and sync.wire with us."""
