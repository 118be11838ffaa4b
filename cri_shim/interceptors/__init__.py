"""What the relay can do besides passing a call on; one file per capability. Read observe.py first."""
