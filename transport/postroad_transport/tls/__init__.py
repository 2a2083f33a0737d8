"""TLS: contexts made from the configuration's certificates."""
