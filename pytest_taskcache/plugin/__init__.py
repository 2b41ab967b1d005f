"""The plugin: not yet wired."""
