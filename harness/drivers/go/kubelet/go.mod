module cgrace/kubelet

go 1.24.0

require (
	cgrace/shim v0.0.0
	k8s.io/kubernetes v1.37.2
)

replace cgrace/shim => ../shim
