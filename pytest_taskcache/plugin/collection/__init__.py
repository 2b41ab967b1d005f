"""Memoized collection: a test file whose collection rests on nothing that changed is not imported.

``record`` is what is kept of a file's collection, ``records`` where, ``pytest_nodes`` makes
stand-ins of it and turns them into the real items in place, ``recording`` watches files that are
collected really, and ``hooks`` decides for each file.
"""
