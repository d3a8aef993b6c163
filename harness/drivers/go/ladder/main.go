// The shim of API family A: libcontainer's systemd.Manager as a struct, v1.0.0-rc4 to rc8. UseSystemd opens the bus and probes
// systemd; without it Apply dereferences a nil connection.
package main

import (
	"errors"
	"os"

	"cgrace/shim"

	"github.com/opencontainers/runc/libcontainer/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer/configs"
)

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

func start() ([]string, error) {
	if err := shim.Booted(); err != nil {
		return nil, err
	}
	if !systemd.UseSystemd() {
		return nil, errors.New("UseSystemd said no: the bus could not be reached, or systemd does not know StartTransientUnit")
	}
	return conclusions(), nil
}

type manager struct {
	*systemd.Manager
	unit shim.Unit
}

func newManager(unit shim.Unit, paths map[string]string) (shim.Manager, error) {
	if unit.Delegate != nil {
		return nil, errors.New("this driver decides about Delegate by itself")
	}
	cgroup := &configs.Cgroup{
		Name:        unit.Name,
		Parent:      unit.Parent,
		ScopePrefix: unit.ScopePrefix,
		Resources:   resources(unit),
	}
	return manager{&systemd.Manager{Cgroups: cgroup, Paths: paths}, unit}, nil
}

// resources: these versions' device rules are left out, none of them goes through systemd.
func resources(unit shim.Unit) *configs.Resources {
	r := &configs.Resources{}
	shim.Fill(r, unit)
	r.Devices = nil
	return r
}

func (m manager) Set(r *shim.Resources) error {
	m.unit.Resources = r
	m.Cgroups.Resources = resources(m.unit)
	return m.Manager.Set(&configs.Config{Cgroups: m.Cgroups})
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
