//go:build !delegatesplit && !unknownprobes

package main

import _ "unsafe" // for go:linkname

//go:linkname hasDelegate github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasDelegate
var hasDelegate bool

func delegateConclusions() []string {
	return []string{conclusion("Delegate", hasDelegate)}
}
