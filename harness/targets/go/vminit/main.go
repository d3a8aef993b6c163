// vminit is PID 1 of the initial file system of a virtual machine that cgrace boots. It does what no distribution's own does
// in the same way on each of them: load the few modules that the disk and the network need, bring up the network, put the keys
// of this boot into the root, lay an install tree over it, and become the root's own init. Every failure is one line on the
// console and ends the machine.
//
// It finds in its file system: /modules (a list, one path a line, in the order to load), /seed (a tree that is copied over
// the root) and, where there is an install tree, /over (the device with its file system). Linux documents the file system in Documentation/filesystems/ramfs-rootfs-initramfs.rst.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	disk        = "/dev/vda"
	root        = "/sysroot"
	laid        = "/mnt" // of the root: where the install tree is while it is copied
	patience    = 20 * time.Second
	finitModule = 313 // x86-64
	inits       = "/sbin/init /lib/systemd/systemd /usr/lib/systemd/systemd"
)

func main() {
	if err := start(); err != nil {
		fmt.Printf("cgrace-vminit: %v\n", err)
		time.Sleep(100 * time.Millisecond) // the console's last characters
		syscall.Sync()
		_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
		select {}
	}
}

func start() error {
	fmt.Println("cgrace-vminit: started")
	for _, dir := range []string{"/dev", root} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount("dev", "/dev", "devtmpfs", syscall.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := network("lo", [4]byte{127, 0, 0, 1}, [4]byte{255, 0, 0, 0}); err != nil {
		return err
	}
	if err := network("eth0", [4]byte{10, 0, 2, 15}, [4]byte{255, 255, 255, 0}); err != nil {
		return err
	}
	if err := mount(disk, root, syscall.MS_NOATIME); err != nil {
		return err
	}
	if err := copyTree("/seed", root); err != nil {
		return err
	}
	over, err := os.ReadFile("/over")
	if err == nil {
		err = mount(string(over), root+laid, syscall.MS_RDONLY)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := switchRoot(); err != nil {
		return err
	}
	if len(over) > 0 {
		if err := layOver(); err != nil {
			return fmt.Errorf("lay the install tree over the root: %w", err)
		}
	}
	return becomeInit()
}

func loadModules() error {
	list, err := os.ReadFile("/modules")
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(list)) {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		none := []byte{0}
		_, _, errno := syscall.Syscall(finitModule, file.Fd(), uintptr(unsafe.Pointer(&none[0])), 0)
		file.Close()
		if errno != 0 && errno != syscall.EEXIST {
			return fmt.Errorf("load %s: %w", path, errno)
		}
	}
	return nil
}

// mount waits for the disk: its driver finds it in its own time.
func mount(disk, place string, flags uintptr) error {
	deadline := time.Now().Add(patience)
	for {
		err := syscall.Mount(disk, place, "ext4", flags, "")
		if err == nil {
			return nil
		}
		if err != syscall.ENOENT && err != syscall.ENXIO || time.Now().After(deadline) {
			return fmt.Errorf("mount %s: %w", disk, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// network gives an interface its address and brings it up, as netdevice(7) says.
func network(name string, address, mask [4]byte) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer syscall.Close(fd)
	ask := func(request uintptr, fill func(*[40]byte)) error {
		var packet [40]byte // struct ifreq
		copy(packet[:15], name)
		fill(&packet)
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&packet[0]))); errno != 0 {
			return errno
		}
		return nil
	}
	inet := func(value [4]byte) func(*[40]byte) {
		return func(packet *[40]byte) {
			packet[16] = syscall.AF_INET // struct sockaddr_in, little-endian family
			copy(packet[20:24], value[:])
		}
	}
	up := func(packet *[40]byte) { packet[16] = syscall.IFF_UP | syscall.IFF_RUNNING }
	deadline := time.Now().Add(patience)
	for { // the interface appears when its driver has found it
		err = ask(syscall.SIOCSIFADDR, inet(address))
		if err != syscall.ENODEV || time.Now().After(deadline) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil {
		err = ask(syscall.SIOCSIFNETMASK, inet(mask))
	}
	if err == nil {
		err = ask(syscall.SIOCSIFFLAGS, up)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", name, err)
	}
	return nil
}

// copyTree copies directories and files with their modes over what is there.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if entry.IsDir() {
			return os.MkdirAll(target, info.Mode().Perm())
		}
		return copyFile(path, target, info.Mode().Perm())
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, mode); err != nil {
		return err
	}
	return os.Chmod(to, mode)
}

// switchRoot makes the disk the root. What this file system holds is small and stays.
func switchRoot() error {
	if err := syscall.Mount("/dev", root+"/dev", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return nil
}

// layOver copies the install tree over the root, where links mean what they mean there: what it has in lib goes to usr/lib where
// lib is a link to that. The root's programs are to see no change of /usr's own time, after which systemd would update caches.
func layOver() error {
	before, err := os.Stat("/usr")
	if err != nil {
		return err
	}
	err = filepath.WalkDir(laid, func(path string, entry fs.DirEntry, err error) error {
		target := strings.TrimPrefix(path, laid)
		if err != nil || target == "" || entry.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
			return err
		}
		if info, err := os.Stat(target); entry.IsDir() && err == nil && info.IsDir() {
			return nil
		}
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Mkdir(target, 0o755)
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			leads, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(leads, target)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return copyFile(path, target, info.Mode().Perm())
	})
	if err != nil {
		return err
	}
	if err := syscall.Unmount(laid, 0); err != nil {
		return err
	}
	for _, ldconfig := range []string{"/sbin/ldconfig", "/usr/sbin/ldconfig"} {
		if exec.Command(ldconfig).Run() == nil {
			break // a root without it has its loader look everywhere
		}
	}
	return os.Chtimes("/usr", before.ModTime(), before.ModTime())
}

func becomeInit() error {
	var err error
	for _, init := range strings.Fields(inits) {
		err = syscall.Exec(init, []string{init}, []string{"HOME=/", "TERM=dumb"})
	}
	return fmt.Errorf("no systemd in the image: %w", err)
}
