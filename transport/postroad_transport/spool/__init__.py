"""The spool: durable storage of queued messages."""
