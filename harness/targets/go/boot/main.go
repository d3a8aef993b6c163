// Starts a Linux root's own systemd as PID 1 of namespaces of its own, and becomes it.
//
//	stage1   started by cgrace with its configuration as the last argument, which names the inherited descriptors: the
//	         control socket and one open cgroup.procs per hierarchy. It joins those cgroups, clones stage 2 into new mount,
//	         pid, cgroup, uts, ipc and network namespaces, as a child of cgrace, and ends.
//	stage2   PID 1 inside: makes the machine (mounts.go), hands the console and the notify socket to cgrace, drops what a
//	         guest must not do to its host, and becomes the root's init.
//	keep     instead of both, where an OCI runtime or podman is to boot it; keeper: its child, which has it done (keeper.go).
//	hook     what podman asks meanwhile (bundle.go); the last argument is a file.
//
// Everything that it mounts lives in its own mount namespace, the writable layer in a tmpfs there: with the last process all
// of it is gone. PR_SET_PDEATHSIG, which survives the exec, ends PID 1 with cgrace, and the kernel ends the rest with PID 1.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

const (
	stage2Control  = 3             // the control socket's descriptor in stage 2; in stage 1 cgrace says which
	processName    = "cgrace-init" // argv[0], by which a sweep knows its own
	exitSetup      = 70            // sysexits: internal software error; the reason went over the control socket
	cloneNewCgroup = 0x02000000    // CLONE_NEWCGROUP: not in package syscall
	namespaces     = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC |
		syscall.CLONE_NEWNET | cloneNewCgroup
)

// Mount is one cgroup mount inside: where, of which type, with which options.
type Mount struct {
	Target  string `json:"target"`
	Type    string `json:"type"`
	Options string `json:"options"`
}

// Config is what cgrace decides for one machine.
type Config struct {
	Parent   int               `json:"parent"`   // pid of cgrace, to see whether it died before PR_SET_PDEATHSIG took hold
	Control  int               `json:"control"`  // descriptor of the control socket
	Cgroups  []int             `json:"cgroups"`  // descriptors of the cgroup.procs to join
	Mounts   []Mount           `json:"mounts"`   // cgroup file systems
	Links    [][2]string       `json:"links"`    // name and target of symlinks in /sys/fs/cgroup
	Entry    string            `json:"entry"`    // folder with the root ("root", never written) and a place to mount on ("mnt")
	Over     string            `json:"over"`     // an install tree that is laid over the root, "" for none
	SizeMB   int               `json:"size_mb"`  // of the writable layer
	Hostname string            `json:"hostname"` // of the machine
	Files    map[string]string `json:"files"`    // files to make, by absolute path, after /run is fresh
	Inits    []string          `json:"inits"`    // where the init may be; the first that is there
	Argv     []string          `json:"argv"`     // its arguments, without its name
	Env      []string          `json:"env"`      // its environment
	Bundle   *Bundle           `json:"bundle"`   // keep: what an OCI runtime needs (bundle.go)
}

func main() {
	stages := map[string]func(Config){"stage1": stage1, "stage2": stage2, "keep": keep, "keeper": keeper}
	if len(os.Args) == 3 && os.Args[1] == "hook" {
		if err := amend(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) != 3 || stages[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "cgrace's machine init: started by cgrace, not by hand")
		os.Exit(2)
	}
	var config Config
	if err := json.Unmarshal([]byte(os.Args[2]), &config); err != nil {
		os.Exit(2)
	}
	stages[os.Args[1]](config)
}

func stage1(config Config) {
	dieWithParent(config.Parent)
	for i, fd := range config.Cgroups {
		if _, err := syscall.Write(fd, []byte("0\n")); err != nil {
			fail(config.Control, fmt.Errorf("join cgroup %d of %d: %w", i+1, len(config.Cgroups), err))
		}
		syscall.Close(fd)
	}
	// CLONE_PARENT makes PID 1 a child of cgrace, which waits for it and whose death it shares.
	pid := clone(config, "stage2", namespaces|syscall.CLONE_PARENT)
	text, _ := json.Marshal(map[string]int{"cloned": pid})
	syscall.Sendto(config.Control, text, syscall.MSG_NOSIGNAL, nil)
	os.Exit(0)
}

// clone starts this program's next stage as PID 1 of new namespaces, and gives its pid. It has the control socket, and dies with its
// parent.
func clone(config Config, stage string, flags uintptr) int {
	syscall.CloseOnExec(config.Control)
	pid, err := syscall.ForkExec("/proc/self/exe", []string{processName, stage, os.Args[2]}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(config.Control)},
		Sys:   &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		fail(config.Control, fmt.Errorf("clone into new namespaces: %w", err))
	}
	return pid
}

func stage2(config Config) {
	runtime.LockOSThread() // capabilities belong to a thread, and this one will exec
	syscall.CloseOnExec(stage2Control)
	machine, err := makeMachine(config)
	if err != nil {
		fail(stage2Control, err)
	}
	init := ""
	for _, path := range config.Inits {
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			init = path
			break
		}
	}
	if init == "" {
		fail(stage2Control, fmt.Errorf("the root has no systemd: none of %v is there", config.Inits))
	}
	if err := dropCapabilities(); err != nil {
		fail(stage2Control, err)
	}
	rights := syscall.UnixRights(machine.master, machine.console, machine.notify)
	if err := syscall.Sendmsg(stage2Control, []byte(`{"booting": true}`), rights, nil, syscall.MSG_NOSIGNAL); err != nil {
		os.Exit(exitSetup)
	}
	syscall.Umask(0o022)
	err = syscall.Exec(init, append([]string{init}, config.Argv...), config.Env)
	fail(stage2Control, fmt.Errorf("%s: %w", init, err))
}

// dieWithParent asks for SIGKILL when the parent dies, and honours a death that came first.
func dieWithParent(parent int) {
	const prSetPdeathsig = 1
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0)
	if os.Getppid() != parent {
		os.Exit(exitSetup)
	}
}

// dropCapabilities takes away for good what would reach the host through no namespace: its clock, its modules, its log, its
// ports, its suspend, its audit. These are also what systemd and its units ask for before they try.
func dropCapabilities() error {
	const prCapbsetDrop = 24
	for _, capability := range []uintptr{
		16, // CAP_SYS_MODULE
		17, // CAP_SYS_RAWIO
		25, // CAP_SYS_TIME
		30, // CAP_AUDIT_CONTROL
		34, // CAP_SYSLOG
		35, // CAP_WAKE_ALARM
		36, // CAP_BLOCK_SUSPEND
		37, // CAP_AUDIT_READ
	} {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prCapbsetDrop, capability, 0); errno != 0 && errno != syscall.EINVAL {
			return fmt.Errorf("drop capability %d: %w", capability, errno)
		}
	}
	return nil
}

// fail reports why there will be no machine, and ends.
func fail(control int, err error) {
	tell(control, err)
	os.Exit(exitSetup)
}

func tell(control int, err error) {
	text, _ := json.Marshal(map[string]string{"failed": err.Error()})
	syscall.Sendto(control, text, syscall.MSG_NOSIGNAL, nil)
}
