// The shim of API family F: go-systemd itself, as programs use it that start their own scopes. main.kind says how they wait:
//
//	podman  a new connection for each call, a channel without room, a receive without limit
//	crio    one connection, a channel with room for one, six minutes
//
// Neither makes a directory. What they rely on once a job has ended, and what is reported here, is the unit's cgroup.
//
// Before v22 the module was github.com/coreos/go-systemd and godbus had no /v5: the build puts those paths in place of these imports.
package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"cgrace/shim"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// kind is "podman" or "crio"; the linker sets it (-X main.kind=...).
var kind = "podman"

const crioPatience = 6 * time.Minute

func main() {
	shim.Main(shim.Driver{Start: start, New: newManager})
}

func start() ([]string, error) {
	return []string{"go-systemd, as " + kind}, shim.Booted()
}

type manager struct{ unit shim.Unit }

func newManager(unit shim.Unit, _ map[string]string) (shim.Manager, error) {
	return manager{unit}, nil
}

func (m manager) Apply(pid int) error {
	return ask(func(conn *systemd.Conn, done chan<- string) error {
		_, err := conn.StartTransientUnit(m.unit.Full, "replace", m.properties(pid), done)
		return err
	})
}

func (m manager) Destroy() error {
	return ask(func(conn *systemd.Conn, done chan<- string) error {
		_, err := conn.StopUnit(m.unit.Full, "replace", done)
		return err
	})
}

func (m manager) properties(pid int) []systemd.Property {
	asked := []systemd.Property{systemd.PropDescription("cgrace " + m.unit.Full)}
	if m.unit.Name != m.unit.Full {
		asked = append(asked, systemd.PropSlice(m.unit.Parent), property("DefaultDependencies", false))
	}
	if pid >= 0 {
		asked = append(asked, property("PIDs", []uint32{uint32(pid)}))
	}
	if delegate := m.unit.Delegate; delegate != nil {
		asked = append(asked, property("Delegate", *delegate))
	}
	return asked
}

func property(name string, value any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// ask starts a job and waits for its end as the program does that kind names.
func ask(begin func(*systemd.Conn, chan<- string) error) error {
	if kind == "crio" {
		conn, err := shared()
		if err != nil {
			return err
		}
		done := make(chan string, 1)
		if err := begin(conn, done); err != nil {
			return err
		}
		select {
		case result := <-done:
			return judged(result)
		case <-time.After(crioPatience):
			return fmt.Errorf("the job did not end within %v", crioPatience)
		}
	}
	conn, err := systemd.New()
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan string)
	if err := begin(conn, done); err != nil {
		return err
	}
	<-done // podman takes any result for success
	return nil
}

func judged(result string) error {
	if result != "done" {
		return fmt.Errorf("the job ended with %q", result)
	}
	return nil
}

var (
	sharing sync.Mutex
	kept    *systemd.Conn
)

func shared() (*systemd.Conn, error) {
	sharing.Lock()
	defer sharing.Unlock()
	if kept == nil {
		conn, err := systemd.New()
		if err != nil {
			return nil, err
		}
		kept = conn
	}
	return kept, nil
}

func (m manager) Set(*shim.Resources) error { return shim.ErrNoWay }

func (m manager) Freeze(bool) error { return shim.ErrNoWay }

// Paths is where systemd puts the unit: below the slices that a slice's name spells out (systemd.slice(5)).
func (m manager) Paths() map[string]string {
	slice, unit := m.unit.Parent, "/"+m.unit.Full
	if m.unit.Name == m.unit.Full {
		slice, unit = m.unit.Full, ""
	}
	where := ""
	if stem := strings.TrimSuffix(slice, ".slice"); stem != "-" && stem != "" {
		parts := strings.Split(stem, "-")
		for n := range parts {
			where += "/" + strings.Join(parts[:n+1], "-") + ".slice"
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		return map[string]string{"": "/sys/fs/cgroup" + where + unit}
	}
	return map[string]string{"name=systemd": "/sys/fs/cgroup/systemd" + where + unit}
}

func (m manager) Exists() bool { return false }

func (m manager) Pids() ([]int, error) { return nil, shim.ErrNoWay }
