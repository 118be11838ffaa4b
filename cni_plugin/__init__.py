"""podwire's CNI plugin."""
