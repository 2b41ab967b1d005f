"""Memoized collection: a test file whose collection rests on nothing that changed is not imported.

``collection_record`` is what is kept of a file's collection, ``collection_records`` where,
``pytest_nodes`` makes stand-ins of it and turns them into the real items in place, ``recording``
watches files that are collected really, and ``collection_hooks`` decides for each file.
"""
