"""What holds for every test."""

from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right; the suite has per-test timeouts.
settings.register_profile("edgemodel", deadline=None, print_blob=True)
settings.load_profile("edgemodel")
