"""Lock managers: mutual exclusion by key between threads, processes and hosts.

Adapters are imported by name when used; see ``by_name``.
"""
