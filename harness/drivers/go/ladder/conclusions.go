//go:build !unknownprobes

package main

import _ "unsafe" // for go:linkname

// What the driver's probes concluded: its own package variables, only read.

//go:linkname hasStartTransientUnit github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasStartTransientUnit
var hasStartTransientUnit bool

//go:linkname hasStartTransientSliceUnit github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasStartTransientSliceUnit
var hasStartTransientSliceUnit bool

//go:linkname hasTransientDefaultDependencies github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasTransientDefaultDependencies
var hasTransientDefaultDependencies bool

func conclusions() []string {
	said := []string{
		conclusion("StartTransientUnit", hasStartTransientUnit),
		conclusion("transient slices", hasStartTransientSliceUnit),
		conclusion("DefaultDependencies", hasTransientDefaultDependencies),
	}
	return append(said, delegateConclusions()...)
}

func conclusion(what string, concluded bool) string {
	if concluded {
		return what + ": yes"
	}
	return what + ": no"
}
