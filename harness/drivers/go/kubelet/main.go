// The shim of API family K: the kubelet's own cgroup manager, k8s.io/kubernetes/pkg/kubelet/cm, with the systemd driver. It makes
// slices only, and a manager of opencontainers/cgroups anew for every operation.
package main

import (
	"errors"
	"fmt"
	"strings"

	"cgrace/shim"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm"
)

// kubelet is its one cgroup manager; the kubelet has one for its life, too.
var kubelet cm.CgroupManager

var subsystems *cm.CgroupSubsystems

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

func start() ([]string, error) {
	// The kubelet refuses such a machine in words of its own, later than here.
	if err := shim.Booted(); err != nil {
		return nil, err
	}
	found, err := cm.GetCgroupSubsystems()
	if err != nil {
		return nil, err
	}
	subsystems = found
	kubelet = cm.NewCgroupManager(klog.Background(), found, "systemd")
	return []string{fmt.Sprintf("cgroup v%d, as the kubelet sees it", kubelet.Version())}, nil
}

type manager struct {
	unit shim.Unit
	name cm.CgroupName
}

func newManager(unit shim.Unit, _ map[string]string) (shim.Manager, error) {
	if unit.Name != unit.Full {
		return nil, errors.New("the kubelet makes slices only")
	}
	if unit.Delegate != nil {
		return nil, errors.New("this driver decides about Delegate by itself")
	}
	return manager{unit, cm.ParseSystemdToCgroupName(unit.Full)}, nil
}

func (m manager) config(r *shim.Resources) *cm.CgroupConfig {
	return &cm.CgroupConfig{Name: m.name, ResourceParameters: &cm.ResourceConfig{
		Memory: r.Memory, CPUShares: r.CPUShares, CPUQuota: r.CPUQuota, CPUPeriod: r.CPUPeriod, PidsLimit: r.Pids,
	}}
}

func (m manager) Apply(pid int) error {
	if pid >= 0 {
		return errors.New("the kubelet places no process in a slice")
	}
	return kubelet.Create(klog.Background(), m.config(m.unit.Resources))
}

func (m manager) Destroy() error {
	return kubelet.Destroy(klog.Background(), m.config(&shim.Resources{}))
}

func (m manager) Set(r *shim.Resources) error { return kubelet.Update(klog.Background(), m.config(r)) }

func (m manager) Freeze(bool) error { return shim.ErrNoWay }

// Paths says where the kubelet looks whether the cgroup is there: below each mount that it knows, by the name that it has for it.
func (m manager) Paths() map[string]string {
	paths := map[string]string{}
	for controller, mount := range subsystems.MountPoints {
		paths[controller] = strings.TrimSuffix(mount, "/") + kubelet.Name(m.name)
	}
	return paths
}

func (m manager) Exists() bool { return kubelet.Exists(m.name) }

func (m manager) Pids() ([]int, error) { return kubelet.Pids(klog.Background(), m.name), nil }
