package shim

import "os"

// Rootless says whether a driver was built (-X main.rootless=true) to ask its user's systemd. Such a driver looks for the bus in
// DBUS_SESSION_BUS_ADDRESS; where the environment has only the other variable, the bus that it names is taken for the user's.
func Rootless(built string) bool {
	if built != "true" {
		return false
	}
	const session = "DBUS_SESSION_BUS_ADDRESS"
	if os.Getenv(session) == "" {
		os.Setenv(session, os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"))
	}
	return true
}
