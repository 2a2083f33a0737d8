"""`postroad run`: a whole tier on one machine, from a directory of manifests."""
