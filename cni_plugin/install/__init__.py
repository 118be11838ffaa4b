"""The node's side of an installation: look before, install, come back, and take everything away again."""
