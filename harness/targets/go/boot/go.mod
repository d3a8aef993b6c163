module cgrace/boot

go 1.21
