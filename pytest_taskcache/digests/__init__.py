"""Digests of things as they are now: values, files, the environment."""
