"""Receiving: the SMTP server protocol."""
