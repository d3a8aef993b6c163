"""A run for other programs and for issues: Perfetto, Wireshark, Markdown, and a scenario file that stands alone. Pure."""
