package main

import (
	"fmt"
	"os"
	"reflect"
	"strconv"

	"cgrace/shim"

	cgroup2 "github.com/containerd/cgroups/v3/cgroup2"
)

// group drives cgroup v2. A manager is made by the first Apply, or loaded by name as a process does that has restarted.
type group struct {
	unit  shim.Unit
	inner *cgroup2.Manager
}

func newGroup(unit shim.Unit) (shim.Manager, error) {
	inner, err := cgroup2.LoadSystemd(parent(unit), unit.Full)
	if err != nil {
		return nil, err
	}
	return &group{unit, inner}, nil
}

// parent: of a slice the name itself says where it is; the module would put its path below the parent's a second time.
func parent(unit shim.Unit) string {
	if unit.Name == unit.Full {
		return "/"
	}
	return slice(unit)
}

func (g *group) Apply(pid int) error {
	inner, err := cgroup2.NewSystemd(parent(g.unit), g.unit.Full, pid, limits(g.unit.Resources))
	if err == nil {
		g.inner = inner
	}
	return err
}

func (g *group) Destroy() error { return g.inner.DeleteSystemd() }

// updater is what a manager of 1.0.1 is not yet.
type updater interface {
	Update(*cgroup2.Resources) error
}

func (g *group) Set(r *shim.Resources) error {
	if inner, can := any(g.inner).(updater); can {
		return inner.Update(limits(r))
	}
	return unsupported("set")
}

func (g *group) Freeze(frozen bool) error {
	if frozen {
		return g.inner.Freeze()
	}
	return g.inner.Thaw()
}

// Paths reads the manager's own path, which the module does not tell.
func (g *group) Paths() map[string]string {
	return map[string]string{"": reflect.ValueOf(g.inner).Elem().FieldByName("path").String()}
}

func (g *group) Exists() bool {
	_, err := os.Stat(g.Paths()[""])
	return err == nil
}

func (g *group) Pids() ([]int, error) {
	procs, err := g.inner.Procs(false)
	pids := make([]int, 0, len(procs))
	for _, pid := range procs {
		pids = append(pids, int(pid))
	}
	return pids, err
}

func limits(r *shim.Resources) *cgroup2.Resources {
	found := &cgroup2.Resources{}
	if r.Memory != nil || r.MemorySwap != nil {
		found.Memory = &cgroup2.Memory{Max: r.Memory, Swap: r.MemorySwap}
	}
	if r.Pids != nil {
		found.Pids = &cgroup2.Pids{Max: *r.Pids}
	}
	if r.CPUWeight != nil || r.CPUQuota != nil || r.CpusetCpus != nil || r.CpusetMems != nil {
		cpu := &cgroup2.CPU{Weight: r.CPUWeight}
		if r.CPUQuota != nil {
			period := uint64(100000)
			if r.CPUPeriod != nil {
				period = *r.CPUPeriod
			}
			cpu.Max = cgroup2.CPUMax(strconv.FormatInt(*r.CPUQuota, 10) + " " + fmt.Sprint(period))
		}
		if r.CpusetCpus != nil {
			cpu.Cpus = *r.CpusetCpus
		}
		if r.CpusetMems != nil {
			cpu.Mems = *r.CpusetMems
		}
		found.CPU = cpu
	}
	return found
}
