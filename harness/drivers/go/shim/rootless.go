package shim

import "os"

// Rootless says whether a driver is to ask its user's systemd: it was built so (-X main.rootless=true), or the environment has a
// user's bus alone (target user). Such a driver looks for the bus in DBUS_SESSION_BUS_ADDRESS; where the environment has only the
// other variable, the bus that it names is taken for the user's.
func Rootless(built string) bool {
	const session, system = "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"
	if os.Getenv(session) == "" {
		if built != "true" {
			return false
		}
		os.Setenv(session, os.Getenv(system))
	}
	return true
}
