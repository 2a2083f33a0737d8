"""Authentication: credential stores and SASL mechanisms."""
