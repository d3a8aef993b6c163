package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const (
	guarded    = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	cgroupRoot = "/sys/fs/cgroup"
	notifyPath = "/run/host/notify" // the container interface's place for it
	merged     = "mnt/merged"
	laidOver   = "mnt/over"
)

// devices of the host that a machine has; bound, not made: mknod takes one more capability.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// machine is what cgrace keeps of it: the console's other end, the console itself, so that the other end can be read while
// nobody inside has it open, and the socket on which its systemd says READY=1.
type machine struct {
	master  int
	console int
	notify  int
}

// makeMachine lays a writable layer over the root, mounts what an init expects, and makes that the root directory.
func makeMachine(config Config) (machine, error) {
	var made machine
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return made, fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.Chdir(config.Entry); err != nil {
		return made, err
	}
	if err := layRoot(config.SizeMB, config.Over); err != nil {
		return made, err
	}
	if err := mountMachine(); err != nil {
		return made, err
	}
	if err := mountCgroups(config); err != nil {
		return made, err
	}
	var err error
	if made.master, err = makeConsole(); err != nil {
		return made, err
	}
	if err := enterRoot(); err != nil {
		return made, err
	}
	if config.Over != "" {
		findLibraries("/")
	}
	if err := protectHost(); err != nil {
		return made, err
	}
	if err := writeFiles(config.Files); err != nil {
		return made, err
	}
	if made.notify, err = listenNotify(notifyPath); err != nil {
		return made, err
	}
	if err := syscall.Sethostname([]byte(config.Hostname)); err != nil {
		return made, fmt.Errorf("sethostname: %w", err)
	}
	made.console, err = useConsole()
	return made, err
}

// layRoot mounts the overlay. Relative paths, because overlay's options give ":" and "," a meaning.
func layRoot(sizeMB int, over string) error {
	if err := syscall.Mount("tmpfs", "mnt", "tmpfs", 0, fmt.Sprintf("mode=755,size=%dm", sizeMB)); err != nil {
		return fmt.Errorf("mount tmpfs for the writable layer: %w", err)
	}
	for _, name := range []string{"mnt/upper", "mnt/work", merged} {
		if err := os.Mkdir(name, 0o755); err != nil {
			return err
		}
	}
	lower := "root"
	if over != "" {
		if err := os.Mkdir(laidOver, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(over, laidOver, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind the install tree %s: %w", over, err)
		}
		if err := moveMerged(); err != nil {
			return fmt.Errorf("lay what is in %s beside /usr over the root: %w", over, err)
		}
		lower = laidOver + ":root"
	}
	if err := syscall.Mount("overlay", merged, "overlay", 0, "lowerdir="+lower+",upperdir=mnt/upper,workdir=mnt/work"); err != nil {
		return fmt.Errorf("mount the overlay over the root: %w", err)
	}
	return nil
}

// moveMerged lets a tree that has a /lib of its own be laid over a root where that is a link to usr/lib: the link goes to the
// uppermost layer, and a copy of what the tree has below /lib to where it leads. The same for the other names of a merged /usr.
func moveMerged() error {
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		target, err := os.Readlink(filepath.Join("root", name))
		if err != nil {
			continue // no link
		}
		from := filepath.Join(laidOver, name)
		if info, err := os.Lstat(from); err != nil || !info.IsDir() {
			continue
		}
		if err := os.Symlink(target, filepath.Join("mnt/upper", name)); err != nil {
			return err
		}
		to := filepath.Join("mnt/upper", filepath.Clean("/"+target))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := copyTree(from, to); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies directories, files and links; an install tree holds nothing else that a machine needs.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		place := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case entry.IsDir():
			if err := os.Mkdir(place, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			return nil
		case entry.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, place)
		case entry.Type().IsRegular():
			return copyFile(path, place)
		}
		return nil
	})
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		target.Close()
		return err
	}
	return target.Close()
}

func mountMachine() error {
	for _, m := range []struct {
		target, kind string
		flags        uintptr
		data         string
	}{
		{"proc", "proc", guarded, ""},
		{"sys", "sysfs", guarded | syscall.MS_RDONLY, ""},
		{"dev", "tmpfs", syscall.MS_NOSUID, "mode=755,size=4m"},
		{"dev/pts", "devpts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"},
		{"dev/shm", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=1777,size=64m"},
		{"run", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=755,size=64m"},
	} {
		target := filepath.Join(merged, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m.kind, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on /%s: %w", m.kind, m.target, err)
		}
	}
	dev := filepath.Join(merged, "dev")
	for _, name := range devices {
		if err := bindFile("/dev/"+name, filepath.Join(dev, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("bind /dev/%s: %w", name, err)
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// mountCgroups shows the given hierarchies and no other. The tmpfs around them is read-only before systemd looks: where it
// cannot make a directory, it mounts no hierarchy that the host does not have, which would take a controller from the host.
func mountCgroups(config Config) error {
	root := filepath.Join(merged, cgroupRoot)
	bare := len(config.Mounts) == 1 && config.Mounts[0].Target == cgroupRoot
	if !bare {
		if err := syscall.Mount("tmpfs", root, "tmpfs", guarded, "mode=755,size=64k"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", cgroupRoot, err)
		}
	}
	for _, m := range config.Mounts {
		target := filepath.Join(merged, m.Target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("cgroup", target, m.Type, guarded, m.Options); err != nil {
			return fmt.Errorf("mount %s (%s) on %s: %w", m.Type, m.Options, m.Target, err)
		}
	}
	if bare {
		return nil
	}
	for _, link := range config.Links {
		if err := os.Symlink(link[1], filepath.Join(root, link[0])); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := syscall.Mount("", root, "", guarded|syscall.MS_REMOUNT|syscall.MS_RDONLY, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("make %s read-only: %w", cgroupRoot, err)
	}
	return nil
}

// makeConsole makes the terminal that is /dev/console inside, and gives its other end.
func makeConsole() (int, error) {
	master, err := openTerminal(filepath.Join(merged, "dev/pts/ptmx"))
	if err != nil {
		return -1, err
	}
	var number int32
	if err := ioctl(master, syscall.TIOCGPTN, unsafe.Pointer(&number)); err != nil {
		return -1, fmt.Errorf("number of the console's terminal: %w", err)
	}
	slave := filepath.Join(merged, "dev/pts", strconv.Itoa(int(number)))
	return master, bindFile(slave, filepath.Join(merged, "dev/console"))
}

// openTerminal makes a terminal whose other end can be opened, by a file system's ptmx.
func openTerminal(ptmx string) (int, error) {
	master, err := syscall.Open(ptmx, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a terminal for the console: %w", err)
	}
	var unlock int32
	if err := ioctl(master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock)); err != nil {
		return -1, fmt.Errorf("unlock the console's terminal: %w", err)
	}
	return master, nil
}

// useConsole makes the console this process's standard input, output and error.
func useConsole() (int, error) {
	if _, err := syscall.Setsid(); err != nil && err != syscall.EPERM { // EPERM: we lead a session already
		return -1, fmt.Errorf("setsid: %w", err)
	}
	fd, err := syscall.Open("/dev/console", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open the console: %w", err)
	}
	for target := 0; target < 3; target++ {
		if err := syscall.Dup3(fd, target, 0); err != nil {
			return -1, err
		}
	}
	return fd, nil
}

func enterRoot() error {
	if err := os.Chdir(merged); err != nil {
		return err
	}
	// Both on the same directory: the old root ends up on top of the new one, and is taken off.
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("take the host's root off: %w", err)
	}
	return os.Chdir("/")
}

// protectHost makes read-only what in /proc belongs to the whole machine: sysctls, interrupts, buses, sysrq.
func protectHost() error {
	for _, path := range []string{"/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := syscall.Mount(path, path, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
		flags := uintptr(syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY | guarded)
		if err := syscall.Mount("", path, "", flags, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	return nil
}

// findLibraries lets the loader know of libraries that the install tree brought. A root without ldconfig has its loader look
// for them each time.
func findLibraries(root string) {
	for _, path := range []string{"/sbin/ldconfig", "/usr/sbin/ldconfig"} {
		if _, err := os.Stat(filepath.Join(root, path)); err == nil {
			command := exec.Command(path)
			command.Dir, command.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: root}
			_ = command.Run()
			return
		}
	}
}

func writeFiles(files map[string]string) error {
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func listenNotify(path string) (int, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return -1, err
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
}

// bindFile binds one file onto another, which it makes.
func bindFile(from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		return err
	}
	return syscall.Mount(from, to, "", syscall.MS_BIND, "")
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
