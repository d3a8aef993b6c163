// The shim of API family A: libcontainer's systemd.Manager as a struct, v1.0.0-rc4 to rc8. UseSystemd opens the bus and probes
// systemd; without it Apply dereferences a nil connection.
package main

import (
	"errors"
	"os"
	_ "unsafe" // for go:linkname

	"cgrace/shim"

	"github.com/opencontainers/runc/libcontainer/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// What the driver's probes concluded: its own package variables, only read.

//go:linkname hasStartTransientUnit github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasStartTransientUnit
var hasStartTransientUnit bool

//go:linkname hasStartTransientSliceUnit github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasStartTransientSliceUnit
var hasStartTransientSliceUnit bool

//go:linkname hasTransientDefaultDependencies github.com/opencontainers/runc/libcontainer/cgroups/systemd.hasTransientDefaultDependencies
var hasTransientDefaultDependencies bool

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

func start() ([]string, error) {
	if info, err := os.Lstat("/run/systemd/system"); err != nil || !info.IsDir() {
		return nil, errors.New("systemd does not run here: /run/systemd/system is not a directory")
	}
	if !systemd.UseSystemd() {
		if hasStartTransientUnit {
			return nil, errors.New("UseSystemd said no, and it is not known why")
		}
		return nil, errors.New("UseSystemd said no: the bus could not be reached, or systemd does not know StartTransientUnit")
	}
	said := []string{
		conclusion("StartTransientUnit", hasStartTransientUnit),
		conclusion("transient slices", hasStartTransientSliceUnit),
		conclusion("DefaultDependencies", hasTransientDefaultDependencies),
	}
	return append(said, delegateConclusions()...), nil
}

func conclusion(what string, concluded bool) string {
	if concluded {
		return what + ": yes"
	}
	return what + ": no"
}

type manager struct {
	*systemd.Manager
}

func newManager(unit shim.Unit, paths map[string]string) (shim.Manager, error) {
	if unit.Delegate != nil {
		return nil, errors.New("this driver decides about Delegate by itself")
	}
	cgroup := &configs.Cgroup{
		Name:        unit.Name,
		Parent:      unit.Parent,
		ScopePrefix: unit.ScopePrefix,
		Resources:   resources(unit.Resources),
	}
	return manager{&systemd.Manager{Cgroups: cgroup, Paths: paths}}, nil
}

func resources(r *shim.Resources) *configs.Resources {
	return &configs.Resources{
		Memory:      shim.Or(r.Memory),
		MemorySwap:  shim.Or(r.MemorySwap),
		PidsLimit:   shim.Or(r.Pids),
		CpuShares:   shim.Or(r.CPUShares),
		CpuQuota:    shim.Or(r.CPUQuota),
		CpuPeriod:   shim.Or(r.CPUPeriod),
		CpusetCpus:  shim.Or(r.CpusetCpus),
		CpusetMems:  shim.Or(r.CpusetMems),
		BlkioWeight: shim.Or(r.BlkioWeight),
	}
}

func (m manager) Set(r *shim.Resources) error {
	m.Cgroups.Resources = resources(r)
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
