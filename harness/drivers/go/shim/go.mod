module cgrace/shim

go 1.24.0
