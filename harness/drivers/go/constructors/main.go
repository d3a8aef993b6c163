// The shim of API family C: libcontainer with a constructor per cgroup version, runc v1.0.0-rc91 to v1.2.x. Its
// constructors changed twice (a rootless argument, an error result), so they are called through reflection.
package main

import (
	"errors"
	"fmt"
	"reflect"

	"cgrace/shim"

	"github.com/opencontainers/runc/libcontainer/cgroups"
	_ "github.com/opencontainers/runc/libcontainer/cgroups/devices" // from 1.2 on Set refuses device rules without it
	"github.com/opencontainers/runc/libcontainer/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// rootless is "true" for a driver of the user's systemd; the linker sets it (-X main.rootless=true).
var rootless = ""

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

func start() ([]string, error) {
	said := []string{fmt.Sprintf("cgroup v2: %t", cgroups.IsCgroup2UnifiedMode())}
	if !systemd.IsRunningSystemd() {
		return said, shim.ErrNoSystemd
	}
	return said, nil
}

// driver is what all these versions have.
type driver interface {
	Apply(pid int) error
	Destroy() error
	Freeze(configs.FreezerState) error
	Exists() bool
	GetPaths() map[string]string
	GetPids() ([]int, error)
}

type manager struct {
	driver
	cgroup *configs.Cgroup
	unit   shim.Unit
}

func newManager(unit shim.Unit, paths map[string]string) (shim.Manager, error) {
	if unit.Delegate != nil {
		return nil, errors.New("this driver decides about Delegate by itself")
	}
	cgroup := &configs.Cgroup{Name: unit.Name, Parent: unit.Parent, ScopePrefix: unit.ScopePrefix, Resources: resources(unit)}
	shim.SetField(cgroup, "Systemd", true)
	shim.SetField(cgroup, "Rootless", shim.Rootless(rootless)) // from 1.1.0; before, the constructor's third argument
	var inner driver
	var err error
	if cgroups.IsCgroup2UnifiedMode() {
		inner, err = construct(systemd.NewUnifiedManager, cgroup, paths[""])
	} else {
		inner, err = construct(systemd.NewLegacyManager, cgroup, paths)
	}
	if err != nil {
		return nil, err
	}
	return manager{inner, cgroup, unit}, nil
}

// construct calls New...Manager(cgroup, paths[, rootless]) (manager[, error]).
func construct(constructor any, cgroup *configs.Cgroup, paths any) (driver, error) {
	function := reflect.ValueOf(constructor)
	arguments := []reflect.Value{reflect.ValueOf(cgroup), reflect.ValueOf(paths)}
	if function.Type().NumIn() == 3 {
		arguments = append(arguments, reflect.ValueOf(shim.Rootless(rootless)))
	}
	results := function.Call(arguments)
	if len(results) == 2 && !results[1].IsNil() {
		return nil, results[1].Interface().(error)
	}
	inner, ok := results[0].Interface().(driver)
	if !ok {
		return nil, fmt.Errorf("%s lacks a method that its family has", results[0].Type())
	}
	return inner, nil
}

func resources(unit shim.Unit) *configs.Resources {
	r := &configs.Resources{}
	shim.Fill(r, unit)
	return r
}

func (m manager) Set(r *shim.Resources) error {
	m.unit.Resources = r
	m.cgroup.Resources = resources(m.unit)
	switch inner := m.driver.(type) {
	case interface {
		Set(*configs.Resources) error
	}: // from rc94
		return inner.Set(m.cgroup.Resources)
	case interface{ Set(*configs.Config) error }:
		return inner.Set(&configs.Config{Cgroups: m.cgroup})
	}
	return errors.New("this driver has no Set that is known")
}

func (m manager) Freeze(frozen bool) error {
	if frozen {
		return m.driver.Freeze(configs.Frozen)
	}
	return m.driver.Freeze(configs.Thawed)
}

func (m manager) Paths() map[string]string { return m.GetPaths() }

func (m manager) Pids() ([]int, error) { return m.GetPids() }
