"""The D-Bus protocol without I/O: bytes in, messages and decisions out."""
