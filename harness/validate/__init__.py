"""Probes: small questions to a systemd, real or fake, and what changed between two of them in the answers."""
