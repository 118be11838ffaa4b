"""podwire-cri: looking at what went through the shim. Read __main__.py, then one module per command."""
