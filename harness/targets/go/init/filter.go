package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

const (
	filterSocket        = 3 // where the listener goes, in the stage "filtered"
	setModeFilter       = 1 // SECCOMP_SET_MODE_FILTER
	filterFlagListener  = 8 // SECCOMP_FILTER_FLAG_NEW_LISTENER
	prSetNoNewPrivs     = 38
	instructionBytes    = 8 // struct sock_filter
	instructionsMax     = 4096
	exitFiltered        = 71 // sysexits: the system would not; the reason went over the socket
	filteredStageOfArgv = "filtered"
)

// argv is how this binary is called to become the program under the filter.
func (f *Filter) argv(path string, argv []string) []string {
	head := []string{processName, filteredStageOfArgv, strconv.Itoa(f.Call), f.Program, path}
	return append(head, argv...)
}

// filtered installs the filter on the thread that will exec, sends its listener to cgrace, and becomes the program.
//
// Only this thread is filtered, and only it outlives the exec, so the runtime's other threads need no synchronising. As
// PID 1's child it has CAP_SYS_ADMIN, so no_new_privs stays as it was: the program's world is not changed. A user's own process
// (target user) has not, and the kernel asks for no_new_privs: a driver there gains no privileges anyway. It is not asked
// to wait killably (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), in which the kernel shows a held thread as "disk sleep".
func filtered(call, program string, rest []string) {
	runtime.LockOSThread()
	syscall.CloseOnExec(filterSocket)
	number, err := strconv.Atoi(call)
	if err != nil {
		os.Exit(2)
	}
	code, err := hex.DecodeString(program)
	if err != nil || len(code) == 0 || len(code)%instructionBytes != 0 || len(code) > instructionsMax*instructionBytes {
		os.Exit(2)
	}
	prog := struct {
		length uint16
		filter *byte
	}{uint16(len(code) / instructionBytes), &code[0]}
	install := func() (uintptr, syscall.Errno) {
		fd, _, errno := syscall.RawSyscall(uintptr(number), setModeFilter, filterFlagListener, uintptr(unsafe.Pointer(&prog)))
		return fd, errno
	}
	listener, errno := install()
	if errno == syscall.EACCES {
		syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0)
		listener, errno = install()
	}
	runtime.KeepAlive(code)
	if errno != 0 {
		refuseFilter(fmt.Errorf("seccomp: %w", errno), int(errno))
	}
	err = syscall.Sendmsg(filterSocket, []byte("0"), syscall.UnixRights(int(listener)), nil, syscall.MSG_NOSIGNAL)
	if err != nil {
		os.Exit(exitFiltered)
	}
	syscall.Close(int(listener)) // close-on-exec by the kernel, too: the program must not answer itself
	err = syscall.Exec(rest[0], rest[1:], os.Environ())
	refuseFilter(fmt.Errorf("%s: %w", rest[0], err), 0)
}

// refuseFilter tells cgrace the error's number (0 for one that is not the filter's) and words, and ends.
func refuseFilter(err error, number int) {
	syscall.Sendto(filterSocket, []byte(fmt.Sprintf("%d %s", number, err)), syscall.MSG_NOSIGNAL, nil)
	os.Exit(exitFiltered)
}
