"""The operator side: resources, the compiler, and the commands that use them."""
