package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"cgrace/shim"
)

var notOfAnID = regexp.MustCompile(`[^A-Za-z0-9_.-]`)

// container is one unit's container as shim.Manager; what is remembered of it is the command's.
type container struct {
	*command
	unit shim.Unit
}

// Apply makes a container and starts its process. The pid of the request means nothing: the container's first process is the
// one that is placed. Each has an id of its own, so that two may want the same unit, as two with one cgroupsPath do.
func (c *container) Apply(int) error {
	c.lock.Lock()
	c.made++
	id := fmt.Sprintf("%s-%d", notOfAnID.ReplaceAllString(strings.TrimSuffix(c.unit.Full, ".scope"), "_"), c.made)
	c.lock.Unlock()
	bundle := filepath.Join(c.dir, "bundle", id)
	if err := writeBundle(bundle, filepath.Join(c.dir, "rootfs"), c.unit); err != nil {
		return err
	}
	pidFile := filepath.Join(bundle, "pid")
	if _, err := c.call("create", "--bundle", bundle, "--pid-file", pidFile, id); err != nil {
		return err
	}
	if _, err := c.call("start", id); err != nil {
		return err
	}
	pid, err := strconv.Atoi(line(pidFile))
	if err != nil {
		return fmt.Errorf("the command wrote no pid: %w", err)
	}
	paths := c.reported(id, pid)
	c.lock.Lock()
	c.state[c.unit.Full] = made{id: id, pid: pid, paths: paths}
	c.lock.Unlock()
	return nil
}

// Exec starts another process in the container. It is the command's own, as the first one is.
func (c *container) Exec(int) (int, error) {
	id := c.current().id
	c.lock.Lock()
	c.joined++
	pidFile := filepath.Join(c.dir, "log", fmt.Sprintf("exec-%d.pid", c.joined))
	c.lock.Unlock()
	if _, err := c.call("exec", "--detach", "--pid-file", pidFile, id, "/wait", "wait"); err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(line(pidFile))
	if err != nil {
		return 0, fmt.Errorf("the command wrote no pid: %w", err)
	}
	return pid, nil
}

// Destroy deletes the container.
func (c *container) Destroy() error {
	_, err := c.call("delete", "--force", c.current().id)
	return err
}

// Set updates its limits.
func (c *container) Set(r *shim.Resources) error {
	text, err := json.Marshal(limits(r))
	if err != nil {
		return err
	}
	id := c.current().id
	file := filepath.Join(c.dir, "bundle", id, "update.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	_, err = c.call("update", "--resources", file, id)
	return err
}

// Freeze pauses or resumes it.
func (c *container) Freeze(frozen bool) error {
	word := "resume"
	if frozen {
		word = "pause"
	}
	_, err := c.call(word, c.current().id)
	return err
}

// Exists asks for its state.
func (c *container) Exists() bool {
	_, err := c.call("state", c.current().id)
	return err == nil
}

// Pids asks for its processes.
func (c *container) Pids() ([]int, error) {
	text, err := c.call("ps", "--format", "json", c.current().id)
	if err != nil {
		return nil, err
	}
	var pids []int
	if err := json.Unmarshal([]byte(text), &pids); err != nil {
		return nil, fmt.Errorf("ps said no list of pids: %w", err)
	}
	return pids, nil
}

// Paths are those that the command reported when the container was made.
func (c *container) Paths() map[string]string { return c.current().paths }

// Pid is the container's first process.
func (c *container) Pid() int { return c.current().pid }

// current is the unit's newest container; for one that was never made an id that the command does not know.
func (c *container) current() made {
	c.lock.Lock()
	defer c.lock.Unlock()
	if found, ok := c.state[c.unit.Full]; ok {
		return found
	}
	return made{id: notOfAnID.ReplaceAllString(strings.TrimSuffix(c.unit.Full, ".scope"), "_")}
}
