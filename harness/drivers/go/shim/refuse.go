package shim

import (
	"errors"
	"os"
)

// ErrNoSystemd is what a driver of systemd says at its start where there is none.
var ErrNoSystemd = errors.New("systemd does not run here: /run/systemd/system is not a directory")

// ErrNoWay is what a driver says of an operation that its module does not have.
var ErrNoWay = errors.New("this driver has no such operation")

// Booted is ErrNoSystemd where systemd does not run, for modules that have no such test of their own (sd_booted(3)).
func Booted() error {
	if info, err := os.Lstat("/run/systemd/system"); err != nil || !info.IsDir() {
		return ErrNoSystemd
	}
	return nil
}
