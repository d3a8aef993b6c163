package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

const (
	prSetChildSubreaper = 36
	tiocgptpeer         = 0x5441 // ioctl_tty(2); not in package syscall
	bundleFolder        = "mnt/bundle"
	viewFolder          = "mnt/view"  // what the machine sees at /sys/fs/cgroup
	wholeFolder         = "mnt/whole" // every hierarchy from its root
	machineID           = "machine"
)

// Bundle is what is needed where an OCI runtime boots the machine.
type Bundle struct {
	Runtime string          `json:"runtime"` // the program: runc, crun, or one that takes the same words
	State   string          `json:"state"`   // folder for what the runtime keeps
	Run     string          `json:"run"`     // name of the machine's cgroup in each of Tops
	Tops    []string        `json:"tops"`    // our own cgroup in each hierarchy, from its root, as Mounts are ordered
	Spec    json.RawMessage `json:"spec"`    // config.json
}

// keep boots the machine by an OCI runtime, and stays as the parent of its PID 1 until that has ended: what podman has conmon for.
// When cgrace lets go of the control socket or dies, it kills PID 1.
//
// All mounts are in a mount namespace of its own. The runtime sees there, at /sys/fs/cgroup, no cgroup but the one that is ours,
// so that its manager finds the machine's by one path in every hierarchy, wherever in each of them ours is.
func keep(config Config) {
	runtime.LockOSThread() // namespaces belong to a thread, and children are made by this one
	syscall.CloseOnExec(config.Control)
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		fail(config.Control, fmt.Errorf("a mount namespace: %w", err))
	}
	made, err := layBundle(config)
	if err != nil {
		fail(config.Control, err)
	}
	pid, err := createMachine(config, &made)
	if err != nil {
		fail(config.Control, err)
	}
	text, _ := json.Marshal(map[string]int{"cloned": pid})
	syscall.Sendto(config.Control, text, syscall.MSG_NOSIGNAL, nil)
	go killAtEnd(config.Control, pid)
	rights := syscall.UnixRights(made.master, made.console, made.notify)
	syscall.Sendmsg(config.Control, []byte(`{"booting": true}`), rights, nil, syscall.MSG_NOSIGNAL)
	for _, fd := range []int{made.master, made.console, made.notify} {
		syscall.Close(fd)
	}
	if err := call(config.Bundle, "start", machineID); err != nil {
		tell(config.Control, err)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
			break
		}
	}
	call(config.Bundle, "delete", "--force", machineID)
	os.Exit(0)
}

// killAtEnd waits until cgrace says no more. PID 1 is a child that nobody reaps before `keep` ends, or long dead.
func killAtEnd(control, pid int) {
	buffer := make([]byte, 64)
	for {
		n, _, err := syscall.Recvfrom(control, buffer, 0)
		if err == syscall.EINTR || (err == nil && n > 0) {
			continue
		}
		syscall.Kill(pid, syscall.SIGKILL)
		return
	}
}

func layBundle(config Config) (machine, error) {
	var made machine
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return made, fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.Chdir(config.Entry); err != nil {
		return made, err
	}
	if err := layRoot(config.SizeMB, ""); err != nil {
		return made, err
	}
	if err := os.Mkdir(bundleFolder, 0o755); err != nil {
		return made, err
	}
	if err := os.WriteFile(filepath.Join(bundleFolder, "config.json"), config.Bundle.Spec, 0o644); err != nil {
		return made, err
	}
	for path, text := range config.Files {
		if err := writeFiles(map[string]string{filepath.Join(config.Entry, merged, path): text}); err != nil {
			return made, err
		}
	}
	if err := showCgroups(config); err != nil {
		return made, err
	}
	var err error
	made.notify, err = listenNotify(filepath.Join(bundleFolder, "notify")) // relative: an address has room for 107 bytes
	return made, err
}

// showCgroups mounts every hierarchy, binds the machine's part of it for the machine, and ours for the runtime.
func showCgroups(config Config) error {
	bare := len(config.Mounts) == 1 && config.Mounts[0].Target == cgroupRoot
	for _, folder := range []string{viewFolder, wholeFolder} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
		if !bare && folder == viewFolder {
			if err := syscall.Mount("tmpfs", folder, "tmpfs", guarded, "mode=755,size=64k"); err != nil {
				return fmt.Errorf("mount tmpfs for the machine's cgroups: %w", err)
			}
		}
	}
	for syscall.Unmount(cgroupRoot, syscall.MNT_DETACH) == nil {
	}
	if !bare {
		if err := syscall.Mount("tmpfs", cgroupRoot, "tmpfs", guarded, "mode=755,size=64k"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", cgroupRoot, err)
		}
	}
	for i, m := range config.Mounts {
		name := strings.TrimPrefix(m.Target, cgroupRoot)
		whole := filepath.Join(wholeFolder, strconv.Itoa(i))
		ours := filepath.Join(whole, config.Bundle.Tops[i])
		if err := os.Mkdir(whole, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("cgroup", whole, m.Type, guarded, m.Options); err != nil {
			return fmt.Errorf("mount %s (%s): %w", m.Type, m.Options, err)
		}
		for from, to := range map[string]string{
			ours:                                   cgroupRoot + name,
			filepath.Join(ours, config.Bundle.Run): viewFolder + name,
		} {
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s on %s: %w", from, to, err)
			}
		}
	}
	if bare {
		return nil
	}
	for _, link := range config.Links {
		for _, folder := range []string{cgroupRoot, viewFolder} {
			os.Symlink(link[1], filepath.Join(folder, link[0]))
		}
	}
	// Read-only before systemd looks, as mountCgroups says.
	return syscall.Mount("", viewFolder, "", guarded|syscall.MS_REMOUNT|syscall.MS_RDONLY, "mode=755,size=64k")
}

// createMachine has the runtime make all but start PID 1, and takes the console's terminal from it.
func createMachine(config Config, made *machine) (int, error) {
	folder := filepath.Join(config.Entry, bundleFolder)
	terminal, number := filepath.Join(folder, "terminal"), filepath.Join(folder, "pid")
	listener, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(listener)
	// By its relative name: an address has room for 107 bytes.
	if err := syscall.Bind(listener, &syscall.SockaddrUnix{Name: filepath.Join(bundleFolder, "terminal")}); err != nil {
		return 0, err
	}
	if err := syscall.Listen(listener, 1); err != nil {
		return 0, err
	}
	err = call(config.Bundle, "create", "--bundle", folder, "--console-socket", terminal, "--pid-file", number, machineID)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(number)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s says no pid: %w", config.Bundle.Runtime, err)
	}
	made.master, made.console, err = takeTerminal(listener)
	if err != nil {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	return pid, err
}

// takeTerminal gives the console's other end, as the runtime sent it, and the console.
func takeTerminal(listener int) (int, int, error) {
	sender, _, err := syscall.Accept4(listener, syscall.SOCK_CLOEXEC)
	if err != nil {
		return -1, -1, fmt.Errorf("the console's terminal: %w", err)
	}
	defer syscall.Close(sender)
	name, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := syscall.Recvmsg(sender, name, oob, syscall.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, -1, fmt.Errorf("the console's terminal: %w", err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, -1, fmt.Errorf("the runtime sent no terminal: %w", err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, -1, fmt.Errorf("the runtime sent no terminal: %w", err)
	}
	flags := uintptr(syscall.O_RDWR | syscall.O_NOCTTY | syscall.O_CLOEXEC)
	peer, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fds[0]), tiocgptpeer, flags)
	if errno != 0 {
		return -1, -1, fmt.Errorf("the other end of the console's terminal: %w", errno)
	}
	return fds[0], int(peer), nil
}

// call runs the runtime to its end; what it says is the error.
func call(bundle *Bundle, words ...string) error {
	command := exec.Command(bundle.Runtime, append([]string{"--root", bundle.State}, words...)...)
	// A file, not a pipe: what it starts keeps the other end, and nobody would see the end of what it says.
	said, err := os.CreateTemp("", "")
	if err != nil {
		return err
	}
	defer said.Close()
	os.Remove(said.Name())
	command.Stdout, command.Stderr = said, said
	command.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := command.Run(); err != nil {
		text := make([]byte, 2000)
		n, _ := said.ReadAt(text, 0)
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(bundle.Runtime), words[0], err, bytes.TrimSpace(text[:n]))
	}
	return nil
}
