"""Cached tests: units of tests that share a window, bundles of outcomes, replays."""
