module cgrace/vminit

go 1.21
