"""Settings shared by all tests: property tests without deadlines, no network for the Hugging Face hub."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")
