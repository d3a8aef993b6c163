//go:build delegatesplit && !unknownprobes

package main

import _ "unsafe" // for go:linkname

// Since runc #1776 scopes and slices are asked about apart.

//go:linkname hasDelegateScope github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasDelegateScope
var hasDelegateScope bool

//go:linkname hasDelegateSlice github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasDelegateSlice
var hasDelegateSlice bool

func delegateConclusions() []string {
	return []string{conclusion("Delegate of scopes", hasDelegateScope), conclusion("Delegate of slices", hasDelegateSlice)}
}
