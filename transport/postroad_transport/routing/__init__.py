"""Routing: which next hop a recipient's domain has, and which hosts answer for it."""
