package shim

// Resources are the limits that a request may name; nil: not named. Units: bytes, processes, microseconds.
type Resources struct {
	Memory      *int64  `json:"memory"`
	MemorySwap  *int64  `json:"memory_swap"`
	Pids        *int64  `json:"pids"`
	CPUShares   *uint64 `json:"cpu_shares"`
	CPUWeight   *uint64 `json:"cpu_weight"`
	CPUQuota    *int64  `json:"cpu_quota"`
	CPUPeriod   *uint64 `json:"cpu_period"`
	CpusetCpus  *string `json:"cpuset_cpus"`
	CpusetMems  *string `json:"cpuset_mems"`
	BlkioWeight *uint16 `json:"blkio_weight"`
	// SkipDevices and SkipFreeze (1 or 0) are what the kubelet sets for its slices, in drivers that know them.
	SkipDevices *int `json:"skip_devices"`
	SkipFreeze  *int `json:"skip_freeze"`
}
