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
	tiocgptpeer  = 0x5441 // ioctl_tty(2); not in package syscall
	bundleFolder = "mnt/bundle"
	viewFolder   = "mnt/view"      // what the machine sees at /sys/fs/cgroup
	wholeFolder  = "mnt/whole"     // every hierarchy from its root
	terminals    = "mnt/terminals" // the console, where the runtime does not make it
)

// Command is a program with its arguments. Name: how errors call it.
type Command struct {
	Name  string   `json:"name"`
	Words []string `json:"words"`
}

// Bundle is what is needed where an OCI runtime boots the machine, or podman has one boot it.
type Bundle struct {
	Create   []Command       `json:"create"`   // make all but start PID 1, in this order
	Start    Command         `json:"start"`    // starts it
	Env      []string        `json:"env"`      // of these commands
	PidFile  string          `json:"pid_file"` // where they say which is PID 1
	Terminal bool            `json:"terminal"` // whether they make the console, and send its terminal to the socket "terminal" in bundleFolder
	Private  []string        `json:"private"`  // folders that are to be empty for them, where there are such
	Run      string          `json:"run"`      // name of the machine's cgroup in each of Tops
	Tops     []string        `json:"tops"`     // our own cgroup in each hierarchy, from its root, as Mounts are ordered
	Spec     json.RawMessage `json:"spec"`     // config.json
}

func layBundle(config Config) (machine, error) {
	var made machine
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return made, fmt.Errorf("make mounts private: %w", err)
	}
	// The one that is there shows another pid namespace.
	if err := syscall.Mount("proc", "/proc", "proc", guarded, ""); err != nil {
		return made, fmt.Errorf("mount proc: %w", err)
	}
	if err := os.Chdir(config.Entry); err != nil {
		return made, err
	}
	if err := layRoot(config.SizeMB, config.Over); err != nil {
		return made, err
	}
	if config.Over != "" {
		findLibraries(filepath.Join(config.Entry, merged))
	}
	for _, folder := range config.Bundle.Private {
		err := syscall.Mount("tmpfs", folder, "tmpfs", guarded, "mode=755,size=1m")
		if err != nil && err != syscall.ENOENT {
			return made, fmt.Errorf("mount tmpfs on %s: %w", folder, err)
		}
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
	if !config.Bundle.Terminal {
		if made.master, made.console, err = makeTerminal(); err != nil {
			return made, err
		}
	}
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

func listenOn(path string) (int, error) {
	listener, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// By its relative name: an address has room for 107 bytes.
	if err := syscall.Bind(listener, &syscall.SockaddrUnix{Name: path}); err != nil {
		return -1, err
	}
	return listener, syscall.Listen(listener, 1)
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
	peer, err := otherEnd(fds[0])
	return fds[0], peer, err
}

// makeTerminal makes the console, in a file system of its own, where it is number 0.
func makeTerminal() (int, int, error) {
	if err := os.Mkdir(terminals, 0o755); err != nil {
		return -1, -1, err
	}
	if err := syscall.Mount("devpts", terminals, "devpts", syscall.MS_NOSUID|syscall.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return -1, -1, fmt.Errorf("mount devpts: %w", err)
	}
	master, err := openTerminal(filepath.Join(terminals, "ptmx"))
	if err != nil {
		return -1, -1, err
	}
	peer, err := otherEnd(master)
	return master, peer, err
}

func otherEnd(master int) (int, error) {
	flags := uintptr(syscall.O_RDWR | syscall.O_NOCTTY | syscall.O_CLOEXEC)
	peer, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(master), tiocgptpeer, flags)
	if errno != 0 {
		return -1, fmt.Errorf("the other end of the console's terminal: %w", errno)
	}
	return int(peer), nil
}

// amend is podman's precreate hook (oci-hooks(5)): the configuration that podman made comes in, what is in the file is put over it,
// and it goes out. Only so can podman be told of cgroups, mounts and limits as the machine is to have them.
func amend(file string) error {
	theirs, ours := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.NewDecoder(os.Stdin).Decode(&theirs); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &ours); err != nil {
		return err
	}
	for key, value := range ours {
		theirs[key] = value
	}
	return json.NewEncoder(os.Stdout).Encode(theirs)
}
