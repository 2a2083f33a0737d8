"""Routing: from a recipient to a next hop."""
