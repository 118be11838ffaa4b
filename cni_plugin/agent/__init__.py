"""The node agent: ways to the other nodes' pods, and what a node needs to go on as it was installed."""
