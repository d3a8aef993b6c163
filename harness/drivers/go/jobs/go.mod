module cgrace/jobs

go 1.24.0

require (
	cgrace/shim v0.0.0
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/godbus/dbus/v5 v5.1.0
)

replace cgrace/shim => ../shim
