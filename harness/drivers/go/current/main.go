// The shim of API family D: opencontainers/cgroups, its systemd managers for v1 and v2, or with main.kind=cgroupfs its plain ones.
package main

import (
	"errors"
	"fmt"
	"path"

	"cgrace/shim"

	dbus "github.com/godbus/dbus/v5"

	systemdDbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it Set refuses device rules
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/systemd"
)

// kind is "systemd" or "cgroupfs"; the linker sets it (-X main.kind=...).
var kind = "systemd"

// rootless is "true" for a driver of the user's systemd; the linker sets it (-X main.rootless=true).
var rootless = ""

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

func start() ([]string, error) {
	said := []string{fmt.Sprintf("cgroup v2: %t", cgroups.IsCgroup2UnifiedMode())}
	if kind == "systemd" && !systemd.IsRunningSystemd() {
		return said, shim.ErrNoSystemd
	}
	return said, nil
}

type manager struct {
	cgroups.Manager
	unit shim.Unit
}

func newManager(unit shim.Unit, paths map[string]string) (shim.Manager, error) {
	cgroup := &cgroups.Cgroup{
		Name:        unit.Name,
		Parent:      unit.Parent,
		ScopePrefix: unit.ScopePrefix,
		Resources:   resources(unit),
	}
	inner, err := construct(cgroup, unit, paths)
	if err != nil {
		return nil, err
	}
	return manager{inner, unit}, nil
}

func construct(cgroup *cgroups.Cgroup, unit shim.Unit, paths map[string]string) (cgroups.Manager, error) {
	unified := cgroups.IsCgroup2UnifiedMode()
	if kind == "cgroupfs" {
		// Where systemd would have the unit, so that both drivers can be compared.
		parent, err := systemd.ExpandSlice(unit.Parent)
		if err != nil {
			return nil, err
		}
		cgroup.Name, cgroup.Parent, cgroup.ScopePrefix = "", "", ""
		cgroup.Path = path.Join(parent, unit.Full)
		if unified {
			return fs2.NewManager(cgroup, paths[""])
		}
		return fs.NewManager(cgroup, paths)
	}
	cgroup.Systemd = true
	cgroup.Rootless = shim.Rootless(rootless)
	if unit.Delegate != nil {
		// As a user's annotation org.systemd.property.Delegate does.
		cgroup.SystemdProps = []systemdDbus.Property{{Name: "Delegate", Value: dbus.MakeVariant(*unit.Delegate)}}
	}
	if unified {
		return systemd.NewUnifiedManager(cgroup, paths[""])
	}
	return systemd.NewLegacyManager(cgroup, paths)
}

func resources(unit shim.Unit) *cgroups.Resources {
	r := &cgroups.Resources{}
	if every := 0; kind == "cgroupfs" && unit.Resources.SkipDevices == nil {
		// The plain manager makes no devices cgroup for a unit without device rules, and reports its path all the same.
		limits := *unit.Resources
		limits.SkipDevices = &every
		unit.Resources = &limits
	}
	shim.Fill(r, unit)
	return r
}

func (m manager) Set(r *shim.Resources) error {
	unit := m.unit
	unit.Resources = r
	return m.Manager.Set(resources(unit))
}

func (m manager) Freeze(frozen bool) error {
	if frozen {
		return m.Manager.Freeze(cgroups.Frozen)
	}
	return m.Manager.Freeze(cgroups.Thawed)
}

// adder is the Manager of opencontainers/cgroups from 0.0.5 on (#26).
type adder interface {
	AddPid(subcgroup string, pid int) error
}

func (m manager) Exec(pid int) (int, error) {
	inner, ok := m.Manager.(adder)
	if !ok {
		return 0, errors.New("this release has no AddPid")
	}
	return 0, inner.AddPid("", pid)
}

func (m manager) Paths() map[string]string { return m.GetPaths() }

func (m manager) Pids() ([]int, error) { return m.GetPids() }
