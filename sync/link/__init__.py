"""The way to one broker: session, lanes, pace, forwarder."""
