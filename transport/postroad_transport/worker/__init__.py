"""One worker: a process with one event loop that accepts, spools, routes and delivers on its own."""
