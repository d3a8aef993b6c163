package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	cgroupRoot  = "/sys/fs/cgroup"
	cgroup2     = 0x63677270 // CGROUP2_SUPER_MAGIC
	namedPrefix = "name="

	capSysResource = 24
)

// reported are the cgroups that the command itself says its container has, by subsystem: runc keeps them in its state.json, crun
// one path for all in its status. Of a command that keeps neither, those that the process is in.
func (c *command) reported(id string, pid int) map[string]string {
	folder := filepath.Join(c.dir, "root", id)
	var runc struct {
		Paths map[string]string `json:"cgroup_paths"`
	}
	if text, err := os.ReadFile(filepath.Join(folder, "state.json")); err == nil && json.Unmarshal(text, &runc) == nil {
		if len(runc.Paths) > 0 {
			return runc.Paths
		}
	}
	var crun struct {
		Path string `json:"cgroup-path"`
	}
	own := ""
	if text, err := os.ReadFile(filepath.Join(folder, "status")); err == nil && json.Unmarshal(text, &crun) == nil {
		own = crun.Path
	}
	return membership(pid, own)
}

// membership is a process's cgroups as paths; a path that is given stands for all that have controllers (of the others, such as
// systemd's own tree, crun says nothing).
func membership(pid int, own string) map[string]string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	paths := map[string]string{}
	for _, entry := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		parts := strings.SplitN(entry, ":", 3)
		if len(parts) != 3 || unified() != (parts[1] == "") {
			continue // of the other version's hierarchy nothing is mounted here
		}
		where := parts[2]
		if own != "" && !strings.HasPrefix(parts[1], namedPrefix) {
			where = own
		}
		for _, subsystem := range strings.Split(parts[1], ",") {
			mount := filepath.Join(cgroupRoot, strings.TrimPrefix(subsystem, namedPrefix))
			paths[subsystem] = filepath.Join(mount, where)
		}
	}
	return paths
}

// unified says whether cgroup v2 is what is mounted here.
func unified() bool {
	var fs syscall.Statfs_t
	return syscall.Statfs(cgroupRoot, &fs) == nil && fs.Type == cgroup2
}

// mayRaiseLimits says whether this process has CAP_SYS_RESOURCE.
func mayRaiseLimits() bool {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "\nCapEff:\t")
	word, _, _ := strings.Cut(rest, "\n")
	held, err := strconv.ParseUint(word, 16, 64)
	return err == nil && held&(1<<capSysResource) != 0
}
