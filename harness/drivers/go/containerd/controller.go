package main

import (
	"path"
	"strings"

	"cgrace/shim"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1"
)

// controller asks systemd alone: it makes no directory and moves no process.
type controller struct {
	unit  shim.Unit
	inner *cgroup1.SystemdController
}

func newController(unit shim.Unit) (shim.Manager, error) {
	inner, err := cgroup1.NewSystemd("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	return &controller{unit, inner}, nil
}

// name is what the module splits into slice and unit.
func (c *controller) name() string {
	return strings.TrimPrefix(path.Join(slice(c.unit), c.unit.Full), "/")
}

func (c *controller) Apply(pid int) error {
	if pid >= 0 {
		return unsupported("attach a process")
	}
	return c.inner.Create(c.name(), nil)
}

func (c *controller) Destroy() error { return c.inner.Delete(c.name()) }

func (c *controller) Set(*shim.Resources) error { return unsupported("set") }

func (c *controller) Freeze(bool) error { return unsupported("freeze") }

func (c *controller) Paths() map[string]string { return nil }

func (c *controller) Exists() bool { return false }

func (c *controller) Pids() ([]int, error) { return nil, unsupported("pids") }
