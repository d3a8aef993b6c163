package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

const requestBytesMax = 1 << 18 // one packet; cgrace refuses larger requests before it sends them

// Request is one packet from cgrace. Descriptors 0, 1 and 2 of a spawned process come with it (SCM_RIGHTS); with a
// filter a fourth, the socket to which the filter's listener goes (filter.go).
//
//	{"spawn": name, "argv": [...], "env": ["K=V", ...], "cwd": "/", "filter": {"call": n, "program": hex}}
//	                                          -> {"spawned": name, "pid": n} or {"refused": name, "error": ...}
//	                                             "same": true where n is its pid for cgrace, too
//	{"signal": pid, "number": n}                                     no answer
//	{"connect": token}   the first descriptor, a socket, to the one that the second stands for (O_PATH): whoever listens
//	                     there sees our pid, of its own namespace  -> {"connected": token, "errno": n}, 0 for success
//	{"clear": token}     kill everything but init                    -> {"cleared": token, "killed": n}
//
// Unasked: {"ready": pid}, {"exited": pid, "status": raw wait status}, {"garbled": why}.
type Request struct {
	Spawn  *string  `json:"spawn"`
	Argv   []string `json:"argv"`
	Env    []string `json:"env"`
	Cwd    string   `json:"cwd"`
	Filter *Filter  `json:"filter"`
	Signal int      `json:"signal"`
	Number int      `json:"number"`
	Clear  int      `json:"clear"`
	Dial   int      `json:"connect"`
}

// Filter is what a supervised process runs under: the number of seccomp(2) here, and the program in hexadecimal.
type Filter struct {
	Call    int    `json:"call"`
	Program string `json:"program"`
}

// server owns the control socket and the children. The lock makes spawning, telling and reaping one thing at a time:
// a pid that is told to cgrace is never already reaped, so its number cannot be another process's.
type server struct {
	control  int
	victims  func() []int // whom `clear` kills: pids as kill(2) takes them
	lock     sync.Mutex
	children map[int]bool
	clearing []int
	killed   int
	leaving  bool
	wake     int  // whom to let go on at the end, 0 for nobody
	plain    bool // in cgrace's own pid namespace
}

func newServer(control int, victims func() []int) *server {
	return &server{control: control, victims: victims, children: map[int]bool{}}
}

func (s *server) run() {
	syscall.CloseOnExec(s.control)
	childEnded := make(chan os.Signal, 1)
	signal.Notify(childEnded, syscall.SIGCHLD)
	go func() {
		for range childEnded {
			s.reap()
		}
	}()
	// Caught and thrown away rather than ignored: children would inherit that, and a driver must die of SIGTERM.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	s.tell(os.Getpid(), map[string]any{"ready": os.Getpid()})

	buffer := make([]byte, requestBytesMax)
	rights := make([]byte, syscall.CmsgSpace(16*4))
	for {
		n, oobn, flags, _, err := syscall.Recvmsg(s.control, buffer, rights, syscall.MSG_CMSG_CLOEXEC)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			s.leave() // cgrace is done or dead
		}
		fds := descriptors(rights[:oobn])
		s.handle(buffer[:n], fds, flags&syscall.MSG_TRUNC != 0)
		for _, fd := range fds {
			syscall.Close(fd)
		}
	}
}

// leave kills what is ours to kill, and ends. PID 1 need not: the pid namespace goes with it.
func (s *server) leave() {
	if os.Getpid() == 1 {
		os.Exit(0)
	}
	if s.wake > 1 {
		syscall.Kill(s.wake, syscall.SIGCONT)
	}
	s.lock.Lock()
	s.leaving = true
	s.kill()
	s.reapLocked()
	s.lock.Unlock()
	select {} // the last child's end ends us
}

func (s *server) kill() {
	for _, pid := range s.victims() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (s *server) handle(packet []byte, fds []int, truncated bool) {
	var request Request
	s.lock.Lock()
	defer s.lock.Unlock()
	if truncated {
		s.tell(0, map[string]any{"garbled": "packet too large"})
	} else if err := json.Unmarshal(packet, &request); err != nil {
		s.tell(0, map[string]any{"garbled": err.Error()})
	} else if request.Spawn != nil {
		s.spawn(request, fds)
	} else if request.Clear != 0 {
		s.clear(request.Clear)
	} else if request.Dial != 0 {
		s.connect(request.Dial, fds)
	} else if request.Signal > 1 {
		syscall.Kill(request.Signal, syscall.Signal(request.Number)) // gone is fine
	} else {
		s.tell(0, map[string]any{"garbled": "no such request"})
	}
}

func (s *server) spawn(request Request, fds []int) {
	refuse := func(why string) { s.tell(0, map[string]any{"refused": *request.Spawn, "error": why}) }
	wanted := 3
	if request.Filter != nil {
		wanted = 4
	}
	if len(fds) != wanted || len(request.Argv) == 0 {
		refuse(fmt.Sprintf("needs %d descriptors and a program, not %d and %d", wanted, len(fds), len(request.Argv)))
		return
	}
	path, argv := request.Argv[0], request.Argv
	if path == "workload" {
		path, argv = "/proc/self/exe", append([]string{"cgrace-workload", "workload"}, argv[1:]...)
	}
	if request.Filter != nil {
		path, argv = "/proc/self/exe", request.Filter.argv(path, argv)
	}
	cwd := request.Cwd
	if cwd == "" {
		cwd = "/"
	}
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir:   cwd,
		Env:   request.Env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		refuse(fmt.Sprintf("%s: %v", path, err))
		return
	}
	s.children[pid] = true
	if s.plain { // another process's pid in credentials takes a privilege, and here it is the same for cgrace
		s.tell(0, map[string]any{"spawned": *request.Spawn, "pid": pid, "same": true})
		return
	}
	s.tell(pid, map[string]any{"spawned": *request.Spawn, "pid": pid})
}

// connect takes no name of the socket's: what cgrace calls it may be another place in our tree of mounts.
func (s *server) connect(token int, fds []int) {
	err := error(syscall.EBADF)
	if len(fds) == 2 {
		err = syscall.Connect(fds[0], &syscall.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", fds[1])})
	}
	number, _ := err.(syscall.Errno)
	s.tell(0, map[string]any{"connected": token, "errno": int(number)})
}

// clear kills whatever else lives in the pid namespace, or on a machine whatever descends from us; the answer goes out when
// the last child is reaped (orphans become our children, so none is missed).
func (s *server) clear(token int) {
	s.clearing = append(s.clearing, token)
	s.killed = len(s.children)
	s.kill()
	s.reapLocked()
}

func (s *server) reap() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.reapLocked()
}

func (s *server) reapLocked() {
	ended := 0
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.ECHILD {
			for _, token := range s.clearing {
				s.tell(0, map[string]any{"cleared": token, "killed": s.killed})
			}
			s.clearing = nil
			if s.leaving {
				os.Exit(0)
			}
		}
		if err != nil || pid <= 0 {
			if ended > 0 && (s.clearing != nil || s.leaving) {
				s.kill() // orphans that have just become our children
			}
			return
		}
		ended++
		if s.children[pid] {
			delete(s.children, pid)
			s.tell(0, map[string]any{"exited": pid, "status": int(status)})
		}
	}
}

// tell sends one packet. With a pid it carries that as credentials, which the kernel translates into the receiver's
// pid namespace: the one way to name a process across the border that cannot be wrong.
func (s *server) tell(pid int, message map[string]any) {
	text, err := json.Marshal(message)
	if err != nil {
		return
	}
	var oob []byte
	if pid > 0 {
		oob = syscall.UnixCredentials(&syscall.Ucred{Pid: int32(pid), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())})
	}
	for {
		err := syscall.Sendmsg(s.control, text, oob, nil, syscall.MSG_NOSIGNAL)
		if err == syscall.EINTR {
			continue
		}
		if err != nil && os.Getpid() == 1 {
			os.Exit(0)
		}
		return // elsewhere the reader sees the end, and leaves
	}
}

func descriptors(oob []byte) []int {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range messages {
		if messages[i].Header.Level != syscall.SOL_SOCKET || messages[i].Header.Type != syscall.SCM_RIGHTS {
			continue
		}
		if got, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}
