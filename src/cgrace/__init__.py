"""cgrace: races and faults between container cgroup drivers and systemd, on demand and proved.

The parts lie at the top of the repository (harness, fakes, reports, scenarios); the links beside this file make them one
package, so that an installed cgrace neither shadows nor is shadowed by anybody else's modules of those names.
"""

__version__ = "0.1.0"
