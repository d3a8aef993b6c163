package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
)

const saidBytesMax = 4096 // of what a failed command said, the last so much

// command is the program and where its files are. state: of each unit the container that was last made for it.
type command struct {
	path, dir string

	lock    sync.Mutex
	calls   int
	made    int
	joined  int
	running map[int]string // pid to the words of a call that has not ended
	state   map[string]made
}

type made struct {
	id    string
	pid   int
	paths map[string]string
}

func newCommand(path, dir string) *command {
	return &command{path: path, dir: dir, running: map[int]string{}, state: map[string]made{}}
}

// call runs the command to its end and gives its stdout. What goes with an error is what the command itself reports.
//
// Its output goes to files and not to pipes: a container keeps the descriptors of the call that made it, and the end of a pipe
// would never come.
func (c *command) call(words ...string) (string, error) {
	c.lock.Lock()
	c.calls++
	number := strconv.Itoa(c.calls)
	c.lock.Unlock()
	file := func(what string) string { return filepath.Join(c.dir, "log", number+"."+what) }
	out, err := os.Create(file("out"))
	if err != nil {
		return "", err
	}
	defer out.Close()
	said, err := os.Create(file("err"))
	if err != nil {
		return "", err
	}
	defer said.Close()

	argv := words[1:]
	if words[0] != "" {
		argv = append([]string{
			"--root", filepath.Join(c.dir, "root"), "--log", file("log"), "--log-format", "json", "--systemd-cgroup",
		}, words...)
	}
	run := exec.Command(c.path, argv...)
	run.Dir, run.Stdout, run.Stderr = c.dir, out, said
	if err := run.Start(); err != nil {
		return "", err
	}
	pid := run.Process.Pid
	c.lock.Lock()
	c.running[pid] = filepath.Base(c.path) + " " + strings.Join(words, " ")
	c.lock.Unlock()
	err = run.Wait()
	c.lock.Lock()
	delete(c.running, pid)
	c.lock.Unlock()
	if err != nil {
		return "", c.failure(words, err, file)
	}
	text, err := os.ReadFile(file("out"))
	return string(text), err
}

// failure is the last error that the command logged, else what it said on stderr, else how it ended.
func (c *command) failure(words []string, how error, file func(string) string) error {
	what := filepath.Base(c.path) + " " + words[0]
	log, _ := os.ReadFile(file("log"))
	text := ""
	for _, line := range strings.Split(string(log), "\n") {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			text = entry.Msg
		}
	}
	if text == "" {
		said, _ := os.ReadFile(file("err"))
		text = strings.TrimSpace(string(said))
	}
	text = strings.ReplaceAll(text, c.dir+"/", "") // a path that differs from run to run says nothing
	if len(text) > saidBytesMax {
		text = text[len(text)-saidBytesMax:]
	}
	var exit *exec.ExitError
	if text == "" || (errors.As(how, &exit) && !exit.Exited()) {
		return fmt.Errorf("%s: %w %s", what, how, text)
	}
	return fmt.Errorf("%s: %s", what, text)
}

// stacks says where the calls that are out wait, each thread by thread: what the kernel knows of any program.
func (c *command) stacks() string {
	c.lock.Lock()
	defer c.lock.Unlock()
	var pids []int
	for pid := range c.running {
		pids = append(pids, pid)
	}
	sort.Ints(pids)
	var text strings.Builder
	for _, pid := range pids {
		fmt.Fprintf(&text, "process %d: %s\n", pid, c.running[pid])
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			of := fmt.Sprintf("/proc/%d/task/%s/", pid, task.Name())
			fmt.Fprintf(&text, "thread %s (%s), system call %s\n", task.Name(), line(of+"comm"), line(of+"syscall"))
			stack, _ := os.ReadFile(of + "stack")
			for _, frame := range strings.Split(strings.TrimSpace(string(stack)), "\n") {
				fmt.Fprintf(&text, "\t%s\n", frame)
			}
		}
	}
	return text.String()
}

func line(file string) string {
	text, _ := os.ReadFile(file)
	return strings.TrimSpace(string(text))
}
