"""Digests of things as they are now: values, source, files, environment, packages."""
