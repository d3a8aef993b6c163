module cgrace/func

go 1.24.0

require (
	cgrace/shim v0.0.0
	github.com/cilium/ebpf v0.0.0-20191025125908-95b36a581eed
	github.com/coreos/go-systemd v0.0.0-20161114122254-48702e0da86b
	github.com/godbus/dbus v0.0.0-20151105175453-c7fdd8b5cd55
	github.com/opencontainers/runc v1.0.0-rc10
)

require github.com/cyphar/filepath-securejoin v0.7.0 // indirect

require (
	github.com/docker/go-units v0.5.0 // indirect
	github.com/opencontainers/runtime-spec v1.3.0 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/sirupsen/logrus v1.9.3 // indirect
	golang.org/x/sys v0.30.0 // indirect
)

replace cgrace/shim => ../shim
