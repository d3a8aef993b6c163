"""The engine: runs one case and records its trace. It judges nothing."""
