"""Makes the payload: one archive with everything a node needs, an interpreter included."""
