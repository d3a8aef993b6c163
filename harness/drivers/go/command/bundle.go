package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"

	"cgrace/shim"
)

type object = map[string]any

// writeBundle writes the least configuration (OCI runtime specification) of a container of one process that waits: its own
// mounts and pids, no network of its own, and the cgroup `slice:prefix:name`.
func writeBundle(folder, rootfs string, unit shim.Unit) error {
	annotations := object{}
	if unit.Delegate != nil {
		annotations["org.systemd.property.Delegate"] = strconv.FormatBool(*unit.Delegate)
	}
	config := object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": 0, "gid": 0},
			"args": []string{"/wait", "wait"},
			"env":  []string{"PATH=/"},
			"cwd":  "/",
		},
		"root":        object{"path": rootfs},
		"mounts":      []object{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"annotations": annotations,
		"linux": object{
			"cgroupsPath": unit.Parent + ":" + unit.ScopePrefix + ":" + unit.Name,
			"namespaces":  namespaces(),
			"resources":   withDevices(limits(unit.Resources)),
		},
	}
	if rootless() {
		config["linux"].(object)["uidMappings"] = []object{{"containerID": 0, "hostID": os.Geteuid(), "size": 1}}
		config["linux"].(object)["gidMappings"] = []object{{"containerID": 0, "hostID": os.Getegid(), "size": 1}}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "config.json"), text, 0o600)
}

// rootless says whether a user makes the container (target user): it has a user namespace then, of that one user.
func rootless() bool { return os.Geteuid() != 0 }

func namespaces() []object {
	found := []object{{"type": "mount"}, {"type": "pid"}}
	if rootless() {
		found = append(found, object{"type": "user"})
	}
	return found
}

// withDevices adds the rule that every engine begins with: no device is allowed. On cgroup v2 that is a BPF program, for which
// crun raises a limit; who may not raise it could make no container at all, so it is left out there. A user may load none.
func withDevices(resources object) object {
	if !rootless() && (!unified() || mayRaiseLimits()) {
		resources["devices"] = []object{{"allow": false, "access": "rwm"}}
	}
	return resources
}

// limits are a request's resources in the specification's words.
func limits(r *shim.Resources) object {
	found := object{}
	group := func(name string, fields object) {
		for key, value := range fields {
			if reflect.ValueOf(value).IsNil() { // each is a pointer, nil where nobody asks for it
				delete(fields, key)
			}
		}
		if len(fields) > 0 {
			found[name] = fields
		}
	}
	if r == nil {
		return found
	}
	group("memory", object{"limit": r.Memory, "swap": r.MemorySwap})
	group("pids", object{"limit": r.Pids})
	group("cpu", object{
		"shares": r.CPUShares, "quota": r.CPUQuota, "period": r.CPUPeriod, "cpus": r.CpusetCpus, "mems": r.CpusetMems,
	})
	group("blockIO", object{"weight": r.BlkioWeight})
	if r.CPUWeight != nil {
		found["unified"] = map[string]string{"cpu.weight": strconv.FormatUint(*r.CPUWeight, 10)}
	}
	return found
}
