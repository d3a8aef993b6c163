package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

const (
	saidMax      = 2000 // bytes of what a command says
	sysPidfdOpen = 434  // pidfd_open(2), the same on all architectures; not in package syscall
)

// keep starts the keeper, dies with cgrace, and the keeper with it.
func keep(config Config) {
	runtime.LockOSThread() // PR_SET_PDEATHSIG of a child is about the thread that made it
	dieWithParent(config.Parent)
	pid := clone(config, "keeper", syscall.CLONE_NEWNS|syscall.CLONE_NEWPID)
	syscall.Close(config.Control)
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			os.Exit(0)
		}
	}
}

// keeper boots the machine by an OCI runtime, and stays until all that it started has ended: what podman has conmon for. It ends
// when cgrace lets go of the control socket.
//
// It is PID 1 of a pid namespace, so with it whatever was started ends, also what such a program leaves in the background.
// All mounts are in a mount namespace of its own. The runtime sees there, at /sys/fs/cgroup, no cgroup but the one that is ours,
// so that its manager finds the machine's by one path in every hierarchy, wherever in each of them ours is.
func keeper(config Config) {
	syscall.CloseOnExec(stage2Control)
	go endWith(stage2Control)
	made, err := layBundle(config)
	if err != nil {
		fail(stage2Control, err)
	}
	var said *os.File
	if !config.Bundle.Terminal {
		// Not the console itself: conmon gives no terminal on. At the end it is copied there: why PID 1's loader could not start it.
		if said, err = unnamedFile(); err != nil {
			fail(stage2Control, err)
		}
	}
	pidfd, err := createMachine(config.Bundle, &made, said)
	if err != nil {
		fail(stage2Control, err)
	}
	syscall.Sendmsg(stage2Control, []byte(`{"kept": true}`), syscall.UnixRights(pidfd), nil, syscall.MSG_NOSIGNAL)
	rights := syscall.UnixRights(made.master, made.console, made.notify)
	syscall.Sendmsg(stage2Control, []byte(`{"booting": true}`), rights, nil, syscall.MSG_NOSIGNAL)
	for _, fd := range []int{pidfd, made.master, made.notify} {
		syscall.Close(fd)
	}
	begins := int64(0) // of what PID 1 says, behind what the commands said
	if said != nil {
		begins, _ = said.Seek(0, io.SeekEnd)
	}
	if err := call(config.Bundle, config.Bundle.Start, nil); err != nil {
		fail(stage2Control, err)
	}
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
			break
		}
	}
	if said != nil {
		text := make([]byte, saidMax)
		n, _ := said.ReadAt(text, begins)
		syscall.Write(made.console, text[:n])
	}
	os.Exit(0)
}

// endWith waits until cgrace says no more.
func endWith(control int) {
	buffer := make([]byte, 64)
	for {
		n, _, err := syscall.Recvfrom(control, buffer, 0)
		if err != syscall.EINTR && (err != nil || n == 0) {
			os.Exit(0)
		}
	}
}

// createMachine has the runtime make all but start PID 1, and gives a pidfd of that. It takes the console's terminal from the
// runtime where that makes one. said: a file for PID 1's standard output otherwise.
func createMachine(bundle *Bundle, made *machine, said *os.File) (int, error) {
	listener := -1
	if said == nil {
		var err error
		if listener, err = listenOn(filepath.Join(bundleFolder, "terminal")); err != nil {
			return -1, err
		}
		defer syscall.Close(listener)
	}
	for _, command := range bundle.Create {
		if err := call(bundle, command, said); err != nil {
			return -1, err
		}
	}
	pidfd, err := openFirst(bundle.PidFile)
	if err == nil && said == nil {
		made.master, made.console, err = takeTerminal(listener)
	}
	return pidfd, err
}

// openFirst gives a pidfd of PID 1, as its number means something in our pid namespace only.
func openFirst(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return -1, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return -1, fmt.Errorf("the machine's pid: %w", err)
	}
	fd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if errno != 0 {
		return -1, fmt.Errorf("a pidfd of the machine: %w", errno)
	}
	return int(fd), nil
}

// call runs a command to its end; what it says is the error. said: a file that what it starts goes on to write to, nil for none.
func call(bundle *Bundle, told Command, said *os.File) error {
	if said == nil {
		// A file, not a pipe: what it starts keeps the other end, and nobody would see the end of what it says.
		var err error
		if said, err = unnamedFile(); err != nil {
			return err
		}
		defer said.Close()
	}
	from, err := said.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	command := exec.Command(told.Words[0], told.Words[1:]...)
	command.Env, command.Stdout, command.Stderr = bundle.Env, said, said
	if err := command.Run(); err != nil {
		text := make([]byte, saidMax)
		n, _ := said.ReadAt(text, from)
		return fmt.Errorf("%s: %w: %s", told.Name, err, bytes.TrimSpace(text[:n]))
	}
	return nil
}

func unnamedFile() (*os.File, error) {
	file, err := os.CreateTemp("", "")
	if err != nil {
		return nil, err
	}
	return file, os.Remove(file.Name())
}
