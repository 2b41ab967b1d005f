"""Lock managers: mutual exclusion by key between threads, processes and hosts."""
