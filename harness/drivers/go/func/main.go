// The shim of API family B: libcontainer v1.0.0-rc9 and rc10, which give a function that makes managers. UseSystemd opens
// the bus; without it Apply dereferences a nil connection.
package main

import (
	"errors"
	"fmt"
	"os"

	"cgrace/shim"

	"github.com/opencontainers/runc/libcontainer/cgroups"
	"github.com/opencontainers/runc/libcontainer/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer/configs"
)

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

func start() ([]string, error) {
	said := []string{fmt.Sprintf("cgroup v2: %t", cgroups.IsCgroup2UnifiedMode())}
	if !systemd.UseSystemd() {
		return said, errors.New("UseSystemd said no: /run/systemd/system is not a directory, or the bus could not be reached")
	}
	return said, nil
}

type manager struct {
	cgroups.Manager
	cgroup *configs.Cgroup
	unit   shim.Unit
}

func newManager(unit shim.Unit, paths map[string]string) (shim.Manager, error) {
	if unit.Delegate != nil {
		return nil, errors.New("this driver decides about Delegate by itself")
	}
	cgroup := &configs.Cgroup{Name: unit.Name, Parent: unit.Parent, ScopePrefix: unit.ScopePrefix, Resources: resources(unit)}
	make, err := systemd.NewSystemdCgroupsManager()
	if err != nil {
		return nil, err
	}
	return manager{make(cgroup, paths), cgroup, unit}, nil
}

func resources(unit shim.Unit) *configs.Resources {
	r := &configs.Resources{}
	shim.Fill(r, unit)
	r.Devices = nil
	return r
}

func (m manager) Set(r *shim.Resources) error {
	m.unit.Resources = r
	m.cgroup.Resources = resources(m.unit)
	return m.Manager.Set(&configs.Config{Cgroups: m.cgroup})
}

func (m manager) Freeze(frozen bool) error {
	if frozen {
		return m.Manager.Freeze(configs.Frozen)
	}
	return m.Manager.Freeze(configs.Thawed)
}

func (m manager) Paths() map[string]string { return m.GetPaths() }

func (m manager) Pids() ([]int, error) { return m.GetPids() }

// Exists asks as the callers of these drivers did: every path that Apply reported must be there.
func (m manager) Exists() bool {
	paths := m.GetPaths()
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			return false
		}
	}
	return len(paths) > 0
}
