package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	cloneNewCgroup = 0x02000000 // CLONE_NEWCGROUP: not in package syscall
	cgroupRoot     = "/sys/fs/cgroup"
	cgroupFlags    = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	stackedMax     = 64 // mounts stacked on one directory that we are ready to take off
)

// setUp makes the view that a driver expects of a machine whose PID 1 sits at the root of every hierarchy.
func setUp(config Config) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Without mounts of its own it is a process of this very machine, and sees what that has.
	if len(config.Mounts) > 0 {
		if err := syscall.Mount("proc", "/proc", "proc", cgroupFlags, ""); err != nil {
			return fmt.Errorf("mount a fresh /proc: %w", err)
		}
		if err := mountCgroups(config); err != nil {
			return err
		}
	}
	if config.Scope != "" {
		if err := enterScope(filepath.Join(cgroupRoot, config.Scope)); err != nil {
			return err
		}
	}
	return maskSystemd(config.Keep)
}

func mountCgroups(config Config) error {
	for i := 0; i < stackedMax; i++ {
		// Nothing of the host's tree may show through: MNT_DETACH takes the mounts below along.
		if err := syscall.Unmount(cgroupRoot, syscall.MNT_DETACH); err != nil {
			break // EINVAL: no mount left here
		}
	}
	bare := len(config.Mounts) == 1 && config.Mounts[0].Target == cgroupRoot
	if !bare {
		if err := syscall.Mount("tmpfs", cgroupRoot, "tmpfs", cgroupFlags, "mode=755,size=64k"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", cgroupRoot, err)
		}
	}
	for _, m := range config.Mounts {
		if err := os.MkdirAll(m.Target, 0o755); err != nil {
			return err
		}
		err := syscall.Mount("cgroup", m.Target, m.Type, cgroupFlags, m.Options)
		if bare && err == syscall.EBUSY {
			// In a user namespace the host's mount stays (MNT_LOCKED), and the same file system does not go on top of itself.
			if err = syscall.Mount("tmpfs", cgroupRoot, "tmpfs", cgroupFlags, "mode=755,size=64k"); err == nil {
				err = syscall.Mount("cgroup", m.Target, m.Type, cgroupFlags, m.Options)
			}
		}
		if err != nil {
			return fmt.Errorf("mount %s (%s) on %s: %w", m.Type, m.Options, m.Target, err)
		}
	}
	for _, link := range config.Links {
		if err := os.Symlink(link[1], filepath.Join(cgroupRoot, link[0])); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if bare {
		return nil
	}
	flags := uintptr(cgroupFlags | syscall.MS_REMOUNT | syscall.MS_RDONLY)
	if err := syscall.Mount("", cgroupRoot, "", flags, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("make %s read-only: %w", cgroupRoot, err)
	}
	return nil
}

// enterScope leaves the root of a cgroup2 tree empty, as systemd does: no cgroup with processes of its own can give
// controllers to its children.
func enterScope(scope string) error {
	if err := os.Mkdir(scope, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.WriteFile(filepath.Join(scope, "cgroup.procs"), []byte("0\n"), 0)
}

// maskSystemd shows /run/systemd/system and nothing else of systemd. Drivers ask for that directory, and go-systemd
// would otherwise fall back to the host's private socket when the bus refuses it.
func maskSystemd(keep []string) error {
	kept, err := openAll(keep)
	if err != nil {
		return err
	}
	target := "/run/systemd"
	if info, err := os.Lstat(target); err != nil || !info.IsDir() {
		target = "/run"
	}
	old, err := os.ReadDir(target)
	if err != nil {
		return err
	}
	under, err := syscall.Open(target, oPath|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(under)
	if err := syscall.Mount("tmpfs", target, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", target, err)
	}
	if target == "/run" {
		showAgain(under, old)
	}
	if err := os.MkdirAll("/run/systemd/system", 0o755); err != nil {
		return err
	}
	for i, fd := range kept {
		if strings.HasPrefix(keep[i], target+"/") {
			if err := os.MkdirAll(keep[i], 0o755); err != nil {
				return err
			}
			if err := bind(fdPath(fd), keep[i]); err != nil {
				return fmt.Errorf("keep %s visible: %w", keep[i], err)
			}
		}
		syscall.Close(fd)
	}
	flags := uintptr(syscall.MS_REMOUNT | syscall.MS_RDONLY | syscall.MS_NOSUID | syscall.MS_NODEV)
	return syscall.Mount("", target, "", flags, "mode=755,size=64k")
}

// showAgain binds what the tmpfs over /run now hides: only /run/systemd is ours to replace.
func showAgain(under int, old []os.DirEntry) {
	for _, entry := range old {
		from, to := filepath.Join(fdPath(under), entry.Name()), filepath.Join("/run", entry.Name())
		switch {
		case entry.Name() == "systemd":
		case entry.Type()&os.ModeSymlink != 0:
			if link, err := os.Readlink(from); err == nil {
				os.Symlink(link, to)
			}
		case entry.IsDir():
			if os.Mkdir(to, 0o755) == nil {
				bind(from, to)
			}
		default:
			if os.WriteFile(to, nil, 0o600) == nil {
				bind(from, to)
			}
		}
	}
}

const oPath = 0x200000 // O_PATH, the same on amd64 and arm64

func openAll(paths []string) ([]int, error) {
	var fds []int
	for _, path := range paths {
		fd, err := syscall.Open(path, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("%s must stay visible: %w", path, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func bind(from, to string) error {
	return syscall.Mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, "")
}
