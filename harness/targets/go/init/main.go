// The init of a sandbox: PID 1 of the pid namespace in which a driver and its workloads run.
//
// Stages, all of this one binary:
//
//	stage1    started by cgrace with its configuration as the last argument, which names the inherited descriptors: the
//	          control socket and one open cgroup.procs per hierarchy. It joins those cgroups, clones stage 2 into new
//	          mount, pid and cgroup namespaces, as a child of cgrace, and ends.
//	stage2    PID 1 inside: mounts (mounts.go), then serves the control socket (serve.go) and reaps.
//	join      as stage1, but enters the namespaces of a machine that runs already (join.go).
//	joined    a process of that machine, not its PID 1: mounts, serves and reaps what it starts.
//	workload  pause() until killed: the process that a scenario places in cgroups.
//	filtered  between fork and exec of a supervised process: installs its system call filter (filter.go).
//
// Everything ends with the control socket: when cgrace closes it or dies, PID 1 exits and the kernel kills whatever
// is left in the pid namespace. PR_SET_PDEATHSIG on both stages is the second rope. A joined process kills what it started.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"
)

const (
	stage2Control = 3             // the control socket's descriptor in stage 2; in stage 1 cgrace says which
	processName   = "cgrace-init" // argv[0], by which a sweep knows its own
	exitSetup     = 70            // sysexits: internal software error; the reason went over the control socket
)

// Mount is one cgroup mount inside: where, of which type, with which options.
type Mount struct {
	Target  string `json:"target"`
	Type    string `json:"type"`
	Options string `json:"options"`
}

// Config is what cgrace decides for one sandbox.
type Config struct {
	Parent  int         `json:"parent"`  // pid of cgrace, to see whether it died before PR_SET_PDEATHSIG took hold
	Control int         `json:"control"` // descriptor of the control socket
	Cgroups []int       `json:"cgroups"` // descriptors of the cgroup.procs to join
	Mounts  []Mount     `json:"mounts"`
	Links   [][2]string `json:"links"`      // name and target of symlinks in /sys/fs/cgroup
	Scope   string      `json:"scope"`      // cgroup (below the root, v2) in which init and its children live, "" for the root
	Keep    []string    `json:"keep"`       // directories that must stay visible at their path (the run's socket)
	Spaces  []int       `json:"namespaces"` // join: descriptors of the namespaces to enter
	Plain   bool        `json:"plain"`      // join: no namespace at all, which takes no privilege (target user)
	Wake    int         `json:"wake"`       // join: pid of a systemd that a run may have stopped; it goes on when cgrace is gone
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "cgrace's sandbox init: started by cgrace, not by hand")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "workload":
		workload()
	case "filtered":
		if len(os.Args) < 5 {
			os.Exit(2)
		}
		filtered(os.Args[2], os.Args[3], os.Args[4:])
	case "stage1", "stage2", "join", "joined":
		if len(os.Args) != 3 {
			os.Exit(2)
		}
		var config Config
		if err := json.Unmarshal([]byte(os.Args[2]), &config); err != nil {
			os.Exit(2)
		}
		switch os.Args[1] {
		case "stage1":
			stage1(config)
		case "join":
			join(config)
		case "joined":
			joined(config)
		default:
			stage2(config)
		}
	default:
		os.Exit(2)
	}
}

func workload() {
	for {
		// pause() is not on every architecture; ppoll without descriptors and limit is the same.
		syscall.Syscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

func stage1(config Config) {
	dieWithParent(config.Parent)
	enterCgroups(config)
	// Under its old number it must not reach PID 1's children: they could write to it, and no hang of theirs could be proved.
	syscall.CloseOnExec(config.Control)
	next(config, "stage2", &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | cloneNewCgroup,
		Pdeathsig:  syscall.SIGKILL,
	})
}

func enterCgroups(config Config) {
	for i, fd := range config.Cgroups {
		if _, err := syscall.Write(fd, []byte("0\n")); err != nil {
			fail(config.Control, fmt.Errorf("join cgroup %d of %d: %w", i+1, len(config.Cgroups), err))
		}
		syscall.Close(fd)
	}
}

// next clones the next stage and ends. CLONE_PARENT makes it a child of cgrace, so that nothing of ours stays in the run's
// cgroups but that stage itself.
func next(config Config, stage string, attributes *syscall.SysProcAttr) {
	attributes.Cloneflags |= syscall.CLONE_PARENT
	pid, err := syscall.ForkExec("/proc/self/exe", []string{processName, stage, os.Args[2]}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(config.Control)},
		Sys:   attributes,
	})
	if err != nil {
		fail(config.Control, fmt.Errorf("clone into the sandbox's namespaces: %w", err))
	}
	text, _ := json.Marshal(map[string]int{"cloned": pid})
	syscall.Sendto(config.Control, text, syscall.MSG_NOSIGNAL, nil)
	os.Exit(0)
}

func stage2(config Config) {
	if err := setUp(config); err != nil {
		fail(stage2Control, err)
	}
	newServer(stage2Control, everybody).run()
}

// dieWithParent asks for SIGKILL when the parent dies, and honours a death that came first.
func dieWithParent(parent int) {
	const prSetPdeathsig = 1
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0)
	if os.Getppid() != parent {
		os.Exit(exitSetup)
	}
}

// fail reports why there will be no sandbox, and ends.
func fail(control int, err error) {
	text, _ := json.Marshal(map[string]string{"failed": err.Error()})
	syscall.Sendto(control, text, syscall.MSG_NOSIGNAL, nil)
	os.Exit(exitSetup)
}
