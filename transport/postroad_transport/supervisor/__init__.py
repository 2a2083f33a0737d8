"""The supervisor: starts workers, restarts, reloads and drains them, and speaks for the tier."""
