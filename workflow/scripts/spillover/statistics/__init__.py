"""From answers to metrics, changes and tests."""
