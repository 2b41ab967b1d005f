"""What the process does, told to whoever is armed: files, variables, imports, children, sockets."""
