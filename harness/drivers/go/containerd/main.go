// The shim of API family E: containerd/cgroups. With main.kind=cgroup2 its functions for cgroup v2 (NewSystemd, LoadSystemd,
// DeleteSystemd), with main.kind=cgroup1 the SystemdController of its cgroup v1. The module was github.com/containerd/cgroups before
// v3, with the same functions: the build puts that path in place of these imports.
package main

import (
	"errors"
	"fmt"

	"cgrace/shim"
)

// kind is "cgroup2" or "cgroup1"; the linker sets it (-X main.kind=...).
var kind = "cgroup2"

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

// start asks nothing: the module has no test of its own whether systemd runs. Its users look here.
func start() ([]string, error) {
	return []string{"containerd/cgroups, " + kind}, shim.Booted()
}

func newManager(unit shim.Unit, _ map[string]string) (shim.Manager, error) {
	if unit.Delegate != nil {
		return nil, errors.New("this driver decides about Delegate by itself")
	}
	if kind == "cgroup1" {
		return newController(unit)
	}
	return newGroup(unit)
}

// slice is the parent as the module wants it: "/" for the root.
func slice(unit shim.Unit) string {
	if unit.Parent == "" || unit.Parent == "-.slice" {
		return "/"
	}
	return unit.Parent
}

func unsupported(what string) error { return fmt.Errorf("%s: %w", what, shim.ErrNoWay) }
