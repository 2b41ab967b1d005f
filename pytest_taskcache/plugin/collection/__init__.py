"""Memoized collection: a test file whose collection rests on nothing that changed is not imported.

``pytest_nodes`` writes a file's collection down, makes stand-ins of that and turns them into the
real items in place; ``collection_records`` watches files that are collected really, and keeps the
records; ``collection_hooks`` decides for each file.
"""
