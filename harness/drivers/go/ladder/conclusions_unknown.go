//go:build unknownprobes

package main

// A checkout whose probes keep their conclusions in other variables: only the trace tells.
func conclusions() []string { return nil }
