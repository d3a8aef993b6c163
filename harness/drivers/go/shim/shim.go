// Package shim does what JSON lines on stdin say, with one real cgroup driver. It adds no behaviour of its own: no retry,
// no timeout, no lock around an operation. harness/drivers/base.py describes the lines.
package shim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Manager is the driver's own object for one cgroup. Paths may be asked of it at any time.
type Manager interface {
	Apply(pid int) error
	Destroy() error
	Set(*Resources) error
	Freeze(frozen bool) error
	Paths() map[string]string
	Exists() bool
	Pids() ([]int, error)
}

// Driver is what a family gives to Main.
type Driver struct {
	// Start does what a user of the driver does first (old drivers probe systemd here). An error makes the shim refuse every
	// operation: such a driver would dereference a nil connection, as its real users are told not to let it.
	Start func() (conclusions []string, err error)
	// New makes a manager. paths are those that an earlier Apply of the unit reported (nil: none), as a real user keeps them
	// in its state; Apply never gets any.
	New func(unit Unit, paths map[string]string) (Manager, error)
	// Stacks says where every operation that is out waits (nil: all goroutines of this process).
	Stacks func() string
}

// Placer is a Manager that makes the process which it places itself. Pid is that process, as the driver sees it.
type Placer interface{ Pid() int }

// Joiner is a Manager that can have another process in a cgroup that exists: pid, or one that it makes itself, which it then says
// (0: it made none).
type Joiner interface{ Exec(pid int) (int, error) }

// Unit names a cgroup in the words that libcontainer has for it.
type Unit struct {
	// Name is a whole slice's name ("x.slice"), or a scope's without prefix and ".scope".
	Name, ScopePrefix, Parent string
	// Full is the systemd unit's name.
	Full      string
	Delegate  *bool
	Resources *Resources
}

type request struct {
	ID        string          `json:"id"`
	Op        string          `json:"op"`
	Unit      string          `json:"unit"`
	Parent    string          `json:"parent"`
	Pid       *int            `json:"pid"`
	Fresh     bool            `json:"fresh"`
	Delegate  *bool           `json:"delegate"`
	Resources json.RawMessage `json:"resources"`
}

type answer struct {
	ID    string            `json:"id"`
	OK    bool              `json:"ok"`
	Error string            `json:"error"`
	NS    int64             `json:"ns"`
	Paths map[string]string `json:"paths,omitempty"`
	Pid   int               `json:"pid,omitempty"`
	Value string            `json:"value"`
}

type hello struct {
	Hello struct {
		OK          bool     `json:"ok"`
		Error       string   `json:"error"`
		Conclusions []string `json:"conclusions"`
	} `json:"hello"`
}

type server struct {
	driver  Driver
	refusal error

	out sync.Mutex

	state sync.Mutex
	kept  map[string]Manager
	paths map[string]map[string]string
}

// Main serves until stdin ends.
func Main(driver Driver) {
	if driver.Stacks == nil {
		driver.Stacks = stacks
	}
	s := &server{driver: driver, kept: map[string]Manager{}, paths: map[string]map[string]string{}}
	var said hello
	said.Hello.Conclusions, s.refusal = s.start()
	if said.Hello.Conclusions == nil {
		said.Hello.Conclusions = []string{}
	}
	said.Hello.OK = s.refusal == nil
	if s.refusal != nil {
		said.Hello.Error = s.refusal.Error()
	}
	s.say(said)

	// Read through the runtime's poller: a blocking read(0) would keep a P in a system call, and the runtime's sysmon would
	// poll on for some 10 ms before the process is seen at rest.
	stdin := os.Stdin
	if syscall.SetNonblock(0, true) == nil {
		stdin = os.NewFile(0, "stdin")
	}
	lines := bufio.NewReader(stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			s.dispatch(line)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "shim: stdin:", err)
			}
			os.Exit(0)
		}
	}
}

func (s *server) start() (conclusions []string, err error) {
	defer catch(&err)
	return s.driver.Start()
}

func (s *server) dispatch(line []byte) {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		s.say(answer{ID: r.ID, Error: "not a request: " + err.Error()})
		return
	}
	switch r.Op {
	case "quit":
		s.say(answer{ID: r.ID, OK: true})
		os.Exit(0)
	case "stacks":
		// Here and not in a goroutine of its own: nothing that a driver does can keep this one.
		s.say(answer{ID: r.ID, OK: true, Value: s.driver.Stacks()})
	default:
		go s.answer(r)
	}
}

func (s *server) answer(r request) {
	a := answer{ID: r.ID}
	if err := s.operate(&r, &a); err != nil {
		a.Error = err.Error()
		if a.Error == "" {
			a.Error = fmt.Sprintf("an error without a text (%T)", err)
		}
		a.Paths, a.Pid, a.Value = nil, 0, ""
	}
	a.OK = a.Error == ""
	s.say(a)
}

// operate runs one operation; only the driver's own work is timed.
func (s *server) operate(r *request, a *answer) (err error) {
	if s.refusal != nil {
		return fmt.Errorf("refused: %w", s.refusal)
	}
	unit, err := r.unit()
	if err != nil {
		return err
	}
	pid := -1
	if r.Pid != nil {
		pid = *r.Pid
	}
	began := time.Now()
	defer func() { a.NS = time.Since(began).Nanoseconds() }()
	defer catch(&err)

	m, err := s.manager(unit, r)
	if err != nil {
		return err
	}
	switch r.Op {
	case "apply":
		if err = m.Apply(pid); err == nil {
			a.Paths = s.remember(r.Unit, m)
			if placer, ok := m.(Placer); ok {
				a.Pid = placer.Pid()
			}
		}
	case "exec":
		joiner, ok := m.(Joiner)
		if !ok {
			return errors.New("this driver cannot put another process into a cgroup that exists")
		}
		if a.Pid, err = joiner.Exec(pid); err == nil {
			a.Paths = m.Paths()
		}
	case "destroy":
		if err = m.Destroy(); err == nil {
			s.forget(r.Unit)
		}
	case "set":
		err = m.Set(unit.Resources)
	case "freeze":
		err = m.Freeze(true)
	case "thaw":
		err = m.Freeze(false)
	case "exists":
		a.Value = strconv.FormatBool(m.Exists())
	case "paths":
		a.Paths = m.Paths()
	case "pids":
		var pids []int
		pids, err = m.Pids()
		a.Value = strings.Trim(fmt.Sprint(pids), "[]")
	default:
		err = fmt.Errorf("no such operation: %q", r.Op)
	}
	return err
}

// manager gives the unit's kept object, or a new one.
func (s *server) manager(unit Unit, r *request) (Manager, error) {
	s.state.Lock()
	defer s.state.Unlock()
	if m := s.kept[r.Unit]; m != nil && !r.Fresh {
		return m, nil
	}
	paths := s.paths[r.Unit]
	if r.Op == "apply" {
		paths = nil
	}
	m, err := s.driver.New(unit, paths)
	if err == nil && !r.Fresh {
		s.kept[r.Unit] = m
	}
	return m, err
}

func (s *server) remember(unit string, m Manager) map[string]string {
	paths := m.Paths()
	s.state.Lock()
	defer s.state.Unlock()
	s.paths[unit] = paths
	return paths
}

func (s *server) forget(unit string) {
	s.state.Lock()
	defer s.state.Unlock()
	delete(s.paths, unit)
	delete(s.kept, unit)
}

func (s *server) say(what any) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err) // only strings, numbers and maps of them: cannot be
	}
	s.out.Lock()
	defer s.out.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		os.Exit(1) // nobody listens any more
	}
}

func (r *request) unit() (Unit, error) {
	u := Unit{Full: r.Unit, Parent: r.Parent, Delegate: r.Delegate, Resources: &Resources{}}
	switch {
	case strings.HasSuffix(r.Unit, ".slice"):
		u.Name = r.Unit
	case strings.HasSuffix(r.Unit, ".scope"):
		prefix, name, found := strings.Cut(strings.TrimSuffix(r.Unit, ".scope"), "-")
		if !found {
			return u, fmt.Errorf("a scope is <prefix>-<name>.scope to this driver, not %q", r.Unit)
		}
		u.ScopePrefix, u.Name = prefix, name
	default:
		return u, fmt.Errorf("%q is neither a slice nor a scope", r.Unit)
	}
	if len(r.Resources) > 0 {
		decoder := json.NewDecoder(bytes.NewReader(r.Resources))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(u.Resources); err != nil {
			return u, fmt.Errorf("resources: %w", err)
		}
	}
	return u, nil
}

// catch makes a panic of the driver's the operation's error; its stack goes to stderr.
func catch(err *error) {
	if problem := recover(); problem != nil {
		fmt.Fprintf(os.Stderr, "panic: %v\n%s", problem, debug.Stack())
		*err = fmt.Errorf("panic: %v", problem)
	}
}

func stacks() string {
	for size := 256 << 10; ; size *= 2 {
		buffer := make([]byte, size)
		if n := runtime.Stack(buffer, true); n < size {
			return string(buffer[:n])
		}
	}
}
