module cgrace/sandbox-init

go 1.21
