module cgrace/command

go 1.24.0

require cgrace/shim v0.0.0

replace cgrace/shim => ../shim
