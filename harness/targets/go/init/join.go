package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

const prSetChildSubreaper = 36

// setns(2) is not in package syscall; architectures younger than it share one number.
var setnsNumbers = map[string]uintptr{"amd64": 308, "386": 346, "arm": 375, "ppc64": 350, "ppc64le": 350, "s390x": 339}

func setns(fd int) error {
	number, ok := setnsNumbers[runtime.GOARCH]
	if !ok {
		number = 268
	}
	// 0: whichever kind of namespace it is.
	if _, _, errno := syscall.RawSyscall(number, uintptr(fd), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// join enters namespaces of a machine that runs already, and clones there. Namespaces belong to a thread; that of pids is
// for children only, so it is the clone that becomes a process of the machine.
func join(config Config) {
	dieWithParent(config.Parent)
	enterCgroups(config)
	syscall.CloseOnExec(config.Control)
	runtime.LockOSThread()
	for _, fd := range config.Spaces {
		if err := setns(fd); err != nil {
			fail(config.Control, fmt.Errorf("enter a namespace of the machine: %w", err))
		}
		syscall.CloseOnExec(fd)
	}
	// No PR_SET_PDEATHSIG: a joined process that is killed leaves what it started; one whose control socket ends does not.
	attributes := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if config.Plain {
		attributes.Cloneflags = 0
	}
	next(config, "joined", attributes)
}

// joined is the parent of what a run starts on the machine, and of what that leaves behind.
func joined(config Config) {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		fail(stage2Control, fmt.Errorf("become a subreaper: %w", errno))
	}
	if !config.Plain {
		if err := setUp(config); err != nil {
			fail(stage2Control, err)
		}
	}
	server := newServer(stage2Control, ownChildren)
	server.wake, server.plain = config.Wake, config.Plain
	server.run()
}

// everybody names all processes but PID 1, which asks: what kill(2) means by it.
func everybody() []int { return []int{-1} }

// ownChildren names the children of this process. A child is reaped by nobody else, so its pid is surely still its; what is
// below it becomes a child when it dies.
func ownChildren() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		// pid (command) state parent: the command may contain anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return pids
}
