"""From what people wrote to an engine that is composed of it."""
