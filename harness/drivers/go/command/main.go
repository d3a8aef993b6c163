// The driver that is a command: runc, crun, or another that takes the same words (OCI runtime command line).
//
// It does each operation by one or two calls of the command on a real container of one waiting process, and says what the
// command said. It adds no retry, no limit and no clean-up: what a failed create leaves behind stays.
//
// Called as `cgrace-command COMMAND`; as `cgrace-command wait` it is what the containers run.
//
// All its files (bundles, the command's state) are on a tmpfs that only its own mount namespace has, so that nothing of them
// outlives its processes.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"cgrace/shim"
)

const servedDir = "CGRACE_COMMAND_DIR" // from the first stage to the second: the tmpfs

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "cgrace's driver for commands: started by cgrace, not by hand")
		os.Exit(2)
	}
	if os.Args[1] == "wait" {
		wait()
	}
	dir := os.Getenv(servedDir)
	var refusal error
	if dir == "" && rootless() { // mounts are not a user's to make; the folder is one that cgrace removes
		dir, refusal = os.MkdirTemp("", "command-")
	} else if dir == "" {
		refusal = enterOwnMounts()
	}
	os.Unsetenv(servedDir)
	c := newCommand(os.Args[1], dir)
	shim.Main(shim.Driver{
		Start: func() ([]string, error) {
			if refusal != nil {
				return nil, refusal
			}
			return c.start()
		},
		New: func(unit shim.Unit, _ map[string]string) (shim.Manager, error) {
			if unit.ScopePrefix == "" {
				return nil, errors.New("a command makes containers, whose units are scopes")
			}
			return &container{command: c, unit: unit}, nil
		},
		Stacks: c.stacks,
	})
}

// wait does nothing until it is killed.
func wait() {
	for {
		// pause() is not on every architecture; ppoll without descriptors and limit is the same.
		syscall.Syscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// enterOwnMounts becomes this program again in a mount namespace of its own, with a tmpfs for its files. It returns only when
// that cannot be.
func enterOwnMounts() error {
	runtime.LockOSThread() // a namespace is a thread's; the exec below makes this thread the whole process
	dir, err := os.MkdirTemp("", "command-")
	if err != nil {
		return err
	}
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a mount namespace: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	err = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), servedDir+"="+dir))
	return fmt.Errorf("exec: %w", err)
}

// start makes the containers' root and asks the command what it is.
func (c *command) start() ([]string, error) {
	for _, name := range []string{"root", "bundle", "log", "rootfs/proc", "rootfs/dev"} {
		if err := os.MkdirAll(filepath.Join(c.dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "rootfs", "wait"), program, 0o755); err != nil {
		return nil, err
	}
	said, err := c.call("", "--version")
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(said, "\n")
	return []string{first}, nil
}
