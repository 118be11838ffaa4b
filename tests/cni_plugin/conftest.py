"""Property tests are the same at every run, and leave nothing behind."""

from hypothesis import settings

settings.register_profile("podwire", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("podwire")
